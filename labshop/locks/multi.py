"""Several locks at once, without deadlock: the lock of stage v2.

The problem: two buyers who lock the same two products in opposite orders wait for each other for
ever. The idea: everybody takes locks in one order, ascending, so the one with the greatest key can
always go on, and no cycle can close. A key that is named twice is one lock; all share one
deadline for waiting; and who does not get all holds none.

Where all locks are on one node, one script takes as many as are free; elsewhere they are taken one
after the other, and released in reverse.

It does not promise order against locks that were taken outside of it: for those there is
`labshop.locks.deadlock`.

Source: E. W. Dijkstra's resource hierarchy (EWD 310, the dining philosophers); J. W. Havender,
"Avoiding deadlock in multitasking systems" (1968).
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeGuard

from labshop.clock import Clock
from labshop.locks.base import ignore_event
from labshop.locks.errors import LockExpired, LockLost
from labshop.locks.grant import hold
from labshop.locks.lease import HeldLease, Holding
from labshop.locks.redlock import Redlock
from labshop.locks.renewal import Renewal
from labshop.locks.single import SingleLock


class Part(Protocol):
    """A lock on one key that can be one of several."""

    @property
    def key(self) -> str:
        """What is locked."""

    @property
    def clock(self) -> Clock:
        """By which its leases are measured."""

    async def acquire(self, *, wait_ms: float) -> HeldLease:
        """Acquire it."""


class MultiLock:
    """One lock made of several, all of them or none.

    Args:
        locks: in any order; the same key twice is one lock.
    """

    def __init__(self, locks: Iterable[Part]) -> None:
        by_key = {lock.key: lock for lock in locks}
        if not by_key:
            raise ValueError("a MultiLock needs at least one lock")
        self.locks = tuple(by_key[key] for key in sorted(by_key))

    async def acquire(self, *, wait_ms: float) -> HeldLease:
        """Acquire all until the lease is released, or ends by itself.

        Args:
            wait_ms: how long to wait for all together at most, in milliseconds.

        Raises:
            LockTimeout: they were not free in time. NodeError, NoQuorum: too few nodes answered.
            LockExpired: the first ones ended while the last ones were waited for.
                None of the locks is held then.
        """
        first = self.locks[0]
        if _share_a_node(self.locks):
            keys = [lock.key for lock in self.locks]
            return await self.locks[0].acquire_with(keys, wait_ms=wait_ms)
        until_ms = first.clock.now_ms() + wait_ms
        leases: list[HeldLease] = []
        try:
            for lock in self.locks:
                left_ms = until_ms - first.clock.now_ms()
                # In this order, NaN stays NaN, and is refused.
                leases.append(await lock.acquire(wait_ms=max(left_ms, 0.0)))
            _refuse_if_one_has_ended(leases, first.clock.now_ms())
        except BaseException:
            await _AllOf(leases).release()
            raise
        # Of numbers that one counter gave out, the newest is above all that came before any;
        # numbers of several counters cannot be compared.
        fence = max(lease.fence for lease in leases) if _count_alike(self.locks) else 0
        return _holding(leases, first.clock, fence=fence).lease()

    def hold(
        self, *, wait_ms: float, renewal: Renewal | None = None
    ) -> AbstractAsyncContextManager[HeldLease]:
        """Acquire all for the length of an ``async with`` body, and release in any case.

        Args:
            wait_ms: how long to wait for all together at most, in milliseconds.
            renewal: keeps the lease alive while the body runs.

        Raises:
            LockTimeout, NodeError, NoQuorum: as `acquire`. LockLost: it could not be renewed.
        """
        return hold(self, wait_ms, renewal)


class _AllOf:
    """Several leases as one claim."""

    def __init__(self, leases: Sequence[HeldLease]) -> None:
        self._leases = leases

    async def extend(self, ttl_ms: int) -> float | None:
        try:
            return min([(await lease.extend(ttl_ms)).deadline_ms for lease in self._leases])
        except LockLost:
            return None

    async def release(self) -> bool:
        were_ours, errors = [], []
        for lease in reversed(self._leases):
            try:
                were_ours.append(await lease.holding.end())
            except BaseException as error:  # noqa: BLE001  # the others are released too
                errors.append(error)
        if errors:
            raise errors[0]
        return all(were_ours)

    def abandon(self) -> None:
        for lease in reversed(self._leases):
            lease.holding.abandon()

    def leave_turns(self) -> None:
        """Each of the leases has a timer of its own."""


def _holding(leases: Sequence[HeldLease], clock: Clock, *, fence: int) -> Holding:
    """What stands behind the common lease; its parts tell of themselves."""
    return Holding(
        claim=_AllOf(leases),
        clock=clock,
        on_event=ignore_event,
        keys=tuple(lease.key for lease in leases),
        token=leases[0].token,
        fence=fence,
        since_ms=leases[0].since_ms,
        deadline_ms=min(lease.deadline_ms for lease in leases),
    )


def _refuse_if_one_has_ended(leases: Sequence[HeldLease], now_ms: float) -> None:
    ended = min(leases, key=lambda lease: lease.deadline_ms)
    if now_ms >= ended.deadline_ms:
        ttl_ms = ended.deadline_ms - ended.since_ms
        raise LockExpired(ended.key, ttl_ms, now_ms - ended.since_ms)


def _share_a_node(locks: Sequence[Part]) -> TypeGuard[Sequence[SingleLock]]:
    singles = [lock for lock in locks if isinstance(lock, SingleLock)]
    alike = {(lock.node, lock.ttl_ms, lock.barges, lock.on_event) for lock in singles}
    return len(singles) == len(locks) and len(alike) == 1


def _count_alike(locks: Sequence[Part]) -> bool:
    """Whether all fencing tokens come from one counter."""
    counters = {lock.next_fence if isinstance(lock, Redlock) else lock for lock in locks}
    return len(counters) == 1
