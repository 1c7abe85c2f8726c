"""Jobs start by the hand of a monotonic clock: without drift, overlap or pile-up."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from labshop.clock import SystemClock
from labshop.locks import Node, SingleLock
from labshop.ops.scheduler import Job, Scheduler, repeat
from labshop.shop.errors import Unavailable
from tests.conftest import eventually
from tests.resilience.conftest import OwnedClock

INTERVAL_MS = 100


class Enough(BaseException):
    """The test has seen enough runs."""


class Work:
    """A job's work: notes when it starts, and takes as long each time as it is told to."""

    def __init__(self, clock: OwnedClock, *takes_ms: float) -> None:
        self.starts_ms: list[float] = []
        self._clock = clock
        self._takes_ms = list(takes_ms)
        self._since_ms = clock.ms

    async def __call__(self) -> None:
        self.starts_ms.append(self._clock.ms - self._since_ms)
        if not self._takes_ms:
            raise Enough
        self._clock.ms += self._takes_ms.pop(0)


async def starts(clock: OwnedClock, *takes_ms: float, **terms: float) -> list[float]:
    """When a job starts whose runs take so long."""
    work = Work(clock, *takes_ms)
    with pytest.raises(Enough):
        await repeat(Job("job", work, INTERVAL_MS, **terms), clock, chance=lambda: 0.5)
    return work.starts_ms


async def test_the_interval_is_counted_from_start_to_start() -> None:
    """What a run takes does not delay the next one: no drift."""
    assert await starts(OwnedClock(), 30, 70, 99, 1) == [0, 100, 200, 300, 400]


async def test_a_job_that_takes_longer_skips_what_it_has_missed() -> None:
    """It neither overlaps nor makes up for lost runs: the next start is a multiple again."""
    assert await starts(OwnedClock(), 250, 10, 100, 10) == [0, 300, 400, 500, 600]


async def test_jitter_moves_a_start_and_does_not_add_up() -> None:
    """Each start is up to so much later, counted from where it would have been."""
    assert await starts(OwnedClock(), 10, 10, 10, jitter_ms=40) == [20, 120, 220, 320]


async def test_a_jump_of_the_wall_clock_changes_nothing() -> None:
    """Somebody sets the clock by a year between two runs: they start as if nobody had."""

    class Jumpy(OwnedClock):
        def wall_s(self) -> float:
            return -31_536_000.0 * len(self.slept_ms)

    assert await starts(Jumpy(), 10, 10) == await starts(OwnedClock(), 10, 10)


@pytest.mark.parametrize("error", [Unavailable("gate", "away"), ZeroDivisionError()])
async def test_an_error_ends_one_run_only(error: Exception) -> None:
    """A job that fails is done again, and the jobs beside it do not notice."""
    clock, failed, done = OwnedClock(), list[float](), list[float]()

    async def fails() -> None:
        failed.append(clock.ms)
        raise error

    async def works() -> None:
        done.append(clock.ms)

    async with asyncio.TaskGroup() as tasks:
        jobs = [Job("fails", fails, INTERVAL_MS), Job("works", works, INTERVAL_MS)]
        running = [tasks.create_task(repeat(job, clock)) for job in jobs]
        while min(len(failed), len(done)) < 3:
            await asyncio.sleep(0)
        for task in running:
            task.cancel()


async def test_a_job_never_overlaps_itself() -> None:
    """A run that hangs is not started a second time."""
    clock, begun = OwnedClock(), list[float]()

    async def hangs() -> None:
        begun.append(clock.ms)
        await asyncio.Event().wait()

    task = asyncio.create_task(repeat(Job("hangs", hangs, INTERVAL_MS), clock))
    for _ in range(20):
        await asyncio.sleep(0)
        clock.ms += 10 * INTERVAL_MS
    task.cancel()

    assert len(begun) == 1


class Process:
    """A scheduler as another process has it: a connection of its own."""

    def __init__(self, node: Node, ttl_ms: int = 500) -> None:
        self.fences: list[int] = []
        self.own_runs = 0
        self.leads_now: list[bool] = []
        clock = SystemClock()
        self.lock = SingleLock(node, "scheduler", ttl_ms=ttl_ms, clock=clock)
        own = Job("own", self._count, 10)
        self.scheduler = Scheduler([own], self._term, self.lock, clock, self.leads_now.append)

    def _term(self, fence: int) -> list[Job]:
        return [Job("of the leader", self._note(fence), 10)]

    def _note(self, fence: int) -> Callable[[], Awaitable[None]]:
        async def note() -> None:
            self.fences.append(fence)

        return note

    async def _count(self) -> None:
        self.own_runs += 1

    async def has_led(self) -> bool:
        return bool(self.fences)


async def test_one_leads_and_the_other_follows_when_it_goes(node: Node) -> None:
    """Both do their own jobs; the leader's job is done by one, and by the next after it."""
    other_node = Node(f"redis://{node.name}", timeout_ms=2_000)
    first, second = Process(node), Process(other_node)
    leader = asyncio.create_task(first.scheduler.run())
    await eventually(first.has_led)
    follower = asyncio.create_task(second.scheduler.run())

    async def both_work() -> bool:
        return min(first.own_runs, second.own_runs) > 3 and len(first.fences) > 3

    await eventually(both_work)
    assert second.fences == []
    leader.cancel()
    await asyncio.wait((leader,))
    await eventually(second.has_led)
    follower.cancel()
    await asyncio.wait((follower,))
    await other_node.close()

    assert first.leads_now == second.leads_now == [True, False]
    assert len({*first.fences}) == len({*second.fences}) == 1
    assert first.fences[0] < second.fences[0]


async def test_who_has_lost_its_lease_stops_leading_and_stands_again(node: Node) -> None:
    """The server loses its memory: the term ends, the next one has a greater fence."""
    process = Process(node)
    task = asyncio.create_task(process.scheduler.run())
    await eventually(process.has_led)
    await node.command("FLUSHALL")

    async def leads_again() -> bool:
        return len({*process.fences}) > 1

    await eventually(leads_again)
    task.cancel()
    await asyncio.wait((task,))

    assert process.leads_now[:3] == [True, False, True]
    assert process.fences == sorted(process.fences)
