"""Real locks whose boundary the grader controls: each step can fail, or be interrupted.

The problem: what a program does when its second of three locks is not to be had is seen in no run
that goes well. The idea: the learner's `lock_all` gets locks on a real node through a `Tap`, which
counts its steps and can let any of them fail, or stand still until the learner's task is cancelled.
Afterwards the node is asked what is still held.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from labshop.lab.grade import Broken
from labshop.lab.lanes import Bar, BarKind, Point, PointKind
from labshop.lab.many_locks import LockAll, OneLease
from labshop.locks import LockTimeout, Node, SingleLock
from labshop.locks.keys import lock_key
from labshop.locks.lease import HeldLease

MAX_STEPS = 40
TTL_MS = 20_000
NEVER_LONGER_MS = 1_000
"""A lock that is waited for by mistake is not waited for longer."""

Action = Literal["acquire", "release"]
Body = Callable[[Sequence[OneLease]], Awaitable[None]]

_attempts = count(1)


@dataclass(frozen=True)
class Fault:
    """What befalls the n-th `action`, counted from 1: an error, or (None) a cancellation."""

    action: Action
    number: int
    error: Exception | None = None


@dataclass
class Tap:
    """Makes locks on a real node; `trace` is what was asked of them, in order."""

    node: Node
    fault: Fault | None = None
    pause_s: float = 0.0
    trace: list[tuple[Action, str]] = field(default_factory=list)
    waits_ms: list[tuple[str, float, float]] = field(default_factory=list)
    """Each wait that was allowed: the name, how long, and at which moment."""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: int = 0
    """Acquisitions that have begun, and not come to an end."""
    _attempt: int = field(default_factory=lambda: next(_attempts))
    _step: int = 0
    _events: list[Bar | Point] = field(default_factory=list)
    _open: dict[str, int] = field(default_factory=dict)

    def lock_one(self, name: str) -> "TappedLock":
        """A lock on one name, as the exercise hands it out."""
        return TappedLock(self, name)

    async def use(
        self, lock_all: LockAll, names: Sequence[str], wait_ms: float, body: Body
    ) -> None:
        """Hold the names for a body; where the fault is a cancellation, cancel it there.

        Raises:
            Broken: it never came to that step, or the cancellation was swallowed.
        """

        async def visit() -> None:
            async with lock_all(self.lock_one, names, wait_ms) as leases:
                await body(leases)

        if self.fault is None or self.fault.error is not None:
            await visit()
            return
        task, there = asyncio.create_task(visit()), asyncio.create_task(self.reached.wait())
        await asyncio.wait((task, there), return_when=asyncio.FIRST_COMPLETED)
        there.cancel()
        if not self.reached.is_set():
            await task
            raise Broken(
                f"it never came to {self.fault.action} number {self.fault.number}", self.story()
            )
        await self.settle(but=int(self.fault.action == "acquire"))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
            raise Broken("its task was cancelled, and it went on as if nothing was", self.story())

    async def held(self, *names: str) -> list[str]:
        """Which of the names are held once all is quiet, by the node's own word."""
        await self.settle()
        return [name for name in names if await self.node.command("EXISTS", self._lock_key(name))]

    async def settle(self, *, but: int = 0) -> None:
        """Wait until all acquisitions, or all but so many, have come to an end."""
        while self.under_way > but:  # noqa: ASYNC110  # a learner's tasks set no event
            await asyncio.sleep(0.001)

    def names(self, action: Action) -> list[str]:
        """On which names something was done, in order."""
        return [name for done, name in self.trace if done == action]

    def story(self) -> tuple[Bar | Point, ...]:
        """The events of this attempt, a lane for each name."""
        open_bars = [
            Bar(name, start, self._step + 2, "lease", "still held")
            for name, start in self._open.items()
        ]
        return tuple(sorted([*self._events, *open_bars], key=lambda event: event.lane))

    def note(self, name: str, kind: PointKind, text: str) -> None:
        """Something happened to a name."""
        self._step += 1
        self._events.append(Point(name, self._step, kind, text))

    def key(self, name: str) -> str:
        """The name's lock in this attempt, which no other attempt has touched."""
        return f"exercise:{self._attempt}:{name}"

    def begin(self, action: Action, name: str) -> Fault | None:
        """Count a step; returns what befalls it.

        Raises:
            Broken: there were too many.
        """
        if len(self.trace) >= MAX_STEPS:
            raise Broken(f"more than {MAX_STEPS} steps: it goes round in circles", self.story())
        self.trace.append((action, name))
        fault = self.fault
        if fault and (fault.action, fault.number) == (action, len(self.names(action))):
            return fault
        return None

    def opened(self, name: str) -> None:
        self._step += 1
        self._open[name] = self._step

    def closed(self, name: str, kind: BarKind = "lease") -> None:
        self._step += 1
        if name in self._open:
            self._events.append(Bar(name, self._open.pop(name), self._step, kind, "held"))

    async def stand_still(self, name: str) -> None:
        """Until the task is cancelled."""
        self.note(name, "crash", "cancelled")
        self.reached.set()
        await asyncio.Event().wait()

    def _lock_key(self, name: str) -> str:
        return lock_key(self.key(name))


@dataclass(frozen=True)
class TappedLock:
    """A lock on one name whose every step the grader sees."""

    tap: Tap
    name: str

    async def acquire(self, *, wait_ms: float) -> "TappedLease":
        """See `labshop.lab.many_locks.OneLock`."""
        self.tap.waits_ms.append((self.name, wait_ms, asyncio.get_running_loop().time()))
        self.tap.under_way += 1
        try:
            return await self._acquire(wait_ms)
        finally:
            self.tap.under_way -= 1

    async def _acquire(self, wait_ms: float) -> "TappedLease":
        tap, name = self.tap, self.name
        fault = tap.begin("acquire", name)
        if fault is not None:
            if fault.error is None:
                await tap.stand_still(name)
            else:
                tap.note(name, "refused", type(fault.error).__name__)
                raise fault.error
        lock = SingleLock(tap.node, tap.key(name), ttl_ms=TTL_MS)
        try:
            lease = await lock.acquire(wait_ms=min(wait_ms, NEVER_LONGER_MS))
        except LockTimeout:
            tap.note(name, "refused", "waits in vain")
            raise
        tap.opened(name)
        await asyncio.sleep(tap.pause_s)
        return TappedLease(tap, name, lease)


@dataclass(frozen=True)
class TappedLease:
    """A lease on one name whose end the grader sees."""

    tap: Tap
    name: str
    lease: HeldLease

    @property
    def fence(self) -> int:
        return self.lease.fence

    async def release(self) -> None:
        """See `labshop.lab.many_locks.OneLease`."""
        fault = self.tap.begin("release", self.name)
        if fault is not None and fault.error is not None:
            self.tap.note(self.name, "refused", type(fault.error).__name__)
            raise fault.error
        # As the package's locks do: the release is sent before anything can interrupt it.
        await self.lease.holding.end()
        self.tap.closed(self.name)
        if fault is not None:
            await self.tap.stand_still(self.name)
