"""Several locks out of one-key locks: the shape of lesson 2's exercise, and its reference.

The problem: a stage wants `lock(*names)`, one lock that holds all of them or none; a learner writes
the few lines that make it out of locks on one name. The idea: those lines are a function,
`lock_all`, that is given a maker of locks; so the same function runs against the grader's locks and
against the shop's.

It does not promise speed: it takes the locks one after the other, where `labshop.locks.MultiLock`
takes those of one node by one script.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
)
from dataclasses import dataclass
from typing import Protocol

from labshop.locks import Lease, Lock


class OneLease(Protocol):
    """A lease on one name."""

    @property
    def fence(self) -> int:
        """Its fencing token."""

    async def release(self) -> None:
        """End it."""


class OneLock(Protocol):
    """A lock on one name, that is acquired and released by hand."""

    async def acquire(self, *, wait_ms: float) -> OneLease:
        """Wait for it; whatever this raises, the lock is not held then."""


LockOne = Callable[[str], OneLock]


class LockAll(Protocol):
    """What the exercise asks for."""

    def __call__(
        self, lock_one: LockOne, names: Sequence[str], wait_ms: float
    ) -> AbstractAsyncContextManager[Sequence[OneLease]]:
        """Hold all names for the length of an ``async with`` body, or none."""


@asynccontextmanager
async def reference_lock_all(
    lock_one: LockOne, names: Sequence[str], wait_ms: float
) -> AsyncIterator[Sequence[OneLease]]:
    """Hold all names, for who goes on without a `lock_all` of their own."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + wait_ms / 1_000
    leases: list[OneLease] = []
    async with AsyncExitStack() as held:
        for name in sorted(set(names)):
            left_ms = max(0.0, (until_s - loop.time()) * 1_000)
            lease = await lock_one(name).acquire(wait_ms=left_ms)
            held.push_async_callback(lease.release)
            leases.append(lease)
        yield leases


@dataclass(frozen=True)
class OwnLocks:
    """Makes locks as a `Toolbox` does, by somebody's `lock_all`.

    Args:
        lock_all: the learner's, or the reference.
        make: makes a lock on one name.
    """

    lock_all: LockAll
    make: Callable[[str], Lock]

    def __call__(self, *names: str) -> Lock:
        """See `labshop.stages.base.MakeLock`."""
        return _OwnLock(self, names)

    def one(self, name: str) -> OneLock:
        """A lock on one name; hand this to a `lock_all`."""
        return _ByHand(self.make(name))


@dataclass(frozen=True)
class _OwnLock:
    own: OwnLocks
    names: tuple[str, ...]

    @asynccontextmanager
    async def hold(self, *, wait_ms: float) -> AsyncIterator[Lease]:
        """See `labshop.locks.Lock.hold`."""
        async with self.own.lock_all(self.own.one, self.names, wait_ms) as leases:
            held = [lease for lease in leases if isinstance(lease, _Held)]
            # The newest fence is above all that came before any of them.
            yield max((it.lease for it in held), key=lambda lease: lease.fence)


@dataclass(frozen=True)
class _ByHand:
    lock: Lock

    async def acquire(self, *, wait_ms: float) -> "_Held":
        stack = AsyncExitStack()
        lease = await stack.enter_async_context(self.lock.hold(wait_ms=wait_ms))
        return _Held(lease, stack.aclose)


@dataclass(frozen=True)
class _Held:
    lease: Lease
    end: Callable[[], Awaitable[None]]

    @property
    def fence(self) -> int:
        return self.lease.fence

    async def release(self) -> None:
        await self.end()
