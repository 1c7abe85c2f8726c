"""Jobs that are done again and again: some by every process, some by one of them, the leader.

The problem: a job that sleeps for its interval after each run drifts; one that starts by a timer
runs twice at once when it takes longer; one that goes by the wall clock runs a hundred times, or
not at all, when somebody sets that; and what may be done once is done by each process. The idea:

- a start is due at a multiple of the interval since the first one, by a monotonic clock. A job that
  takes longer skips the starts that it has missed. An error ends one run, never the job;
- to lead is the body of a lease. The lease is renewed while the jobs run, and when it is lost they
  are cancelled. Whoever does not lead waits for the same lock, and has it once the lease of a
  leader that died has ended.

A leader that stands still does not know that it was replaced. So its jobs are handed the lease's
fencing token, and whatever they write to has to compare it: see `repair_stock.lua`. The lock is
kept by the server that keeps the gate: lost with it, it protects nothing that is still there.

It does not promise that a job is done at a certain time, nor that at most one process leads; only
that a former leader's writing is refused.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import structlog

from labshop.clock import Clock
from labshop.locks import LockError, LockTimeout, Node, Renewal, SingleLock
from labshop.locks.slots import beside
from labshop.shop.errors import Refused

log = structlog.get_logger()

STAND_MS = 60_000
"""How long this process waits to lead before it stands anew."""
RETRY_MS = 500
RENEWALS = 100_000
"""At most, in one term; a day or more."""


@dataclass(frozen=True)
class Job:
    """Something that is done every `interval_ms`, each time up to `jitter_ms` later."""

    name: str
    work: Callable[[], Awaitable[object]]
    interval_ms: float
    jitter_ms: float = 0.0


async def repeat(job: Job, clock: Clock, chance: Callable[[], float] = random.random) -> NoReturn:
    """Do a job until cancelled.

    Args:
        job: begins at once.
        clock: the intervals are counted by its monotonic side.
        chance: draws the jitter, from 0 to 1.
    """
    since_ms, turn = clock.now_ms(), 0
    while True:
        due_ms = since_ms + turn * job.interval_ms + chance() * job.jitter_ms
        await clock.sleep_ms(max(0.0, due_ms - clock.now_ms()))
        await _attempt(job)
        passed = (clock.now_ms() - since_ms) / job.interval_ms
        turn = max(turn + 1, math.ceil(passed))


async def _attempt(job: Job) -> None:
    try:
        await job.work()
    except (Refused, LockError) as outage:
        log.warning("job.postponed", job=job.name, reason=str(outage))
    except Exception:
        # A defect here must end neither the other jobs nor the sale beside them.
        log.exception("job.failed", job=job.name)


def leader_lock(node: Node, tag: str, *, ttl_ms: int, clock: Clock) -> SingleLock:
    """The lock whose holder leads, on the node of the gate with that tag."""
    name = beside(tag, "scheduler") if node.has_one_slot else "scheduler"
    return SingleLock(node, name, ttl_ms=ttl_ms, clock=clock)


class Scheduler:
    """The jobs of one process.

    Args:
        jobs: what every process does.
        leads: what only the leader does, as jobs of one term, from that term's fencing token.
        lock: who holds it leads; its time to live is how long a leader that died is waited for.
        on_lead: told when this process begins and ceases to lead.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        leads: Callable[[int], Sequence[Job]],
        lock: SingleLock,
        clock: Clock,
        on_lead: Callable[[bool], None],
    ) -> None:
        self._jobs = jobs
        self._leads = leads
        self._lock = lock
        self._clock = clock
        self._on_lead = on_lead
        self.fence = 0
        """Of the present term; 0 while another process leads."""

    async def run(self) -> None:
        """Do all that is to be done, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for job in self._jobs:
                tasks.create_task(repeat(job, self._clock))
            tasks.create_task(self._stand())

    async def _stand(self) -> NoReturn:
        """Stand for leader, lead, and stand again."""
        while True:
            try:
                await self._lead()
            except LockTimeout:
                continue  # another one leads
            except LockError as error:
                log.warning("scheduler.no_leader", reason=str(error))
                await self._clock.sleep_ms(RETRY_MS)

    async def _lead(self) -> None:
        renewal = Renewal(self._lock.ttl_ms, times=RENEWALS)
        async with self._lock.hold(wait_ms=STAND_MS, renewal=renewal) as lease:
            self.fence = lease.fence
            self._on_lead(True)
            log.info("scheduler.leads", fence=lease.fence)
            try:
                async with asyncio.TaskGroup() as term:
                    for job in self._leads(lease.fence):
                        term.create_task(repeat(job, self._clock))
                    # A term without jobs lasts, too, or it would begin anew without a pause.
                    await asyncio.Event().wait()
            finally:
                self.fence = 0
                self._on_lead(False)
