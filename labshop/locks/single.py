"""A lock on one Redis node: the lock of stage v1.

The problem: one holder at a time for a key, also when holders crash, pause or lose a reply, and
in the order in which they came. How it is done stands in `labshop.locks.claim`, line by line.

It does not promise mutual exclusion when the node loses its memory, fails over to a replica,
or when its clock jumps, nor that a paused holder notices the end of its lease: the fencing
token is for that. Order is promised within a process; between processes each has its turn, for
at most `labshop.locks.turns.RUN` holders in a row.

Source: Redis documentation, "Distributed Locks with Redis", section on a single instance; the
hand-over to a queue follows MCS locks and their cohorts (D. Dice et al., "Lock Cohorting", 2012).
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from labshop.clock import Clock, SystemClock
from labshop.locks.base import LockEventHook, ignore_event
from labshop.locks.claim import NodeClaim
from labshop.locks.connection import Node
from labshop.locks.grant import hold, obtain
from labshop.locks.keys import check_terms
from labshop.locks.lease import HeldLease
from labshop.locks.renewal import Renewal


class SingleLock:
    """A lock on one key of one node.

    Args:
        node: the server that keeps the lock.
        key: what is locked. Keys that begin with ``lock:{key}`` are used.
        ttl_ms: after this time the lock frees itself.
        on_event: told of everything that happens to this lock.
        barges: takes a free lock also when processes that came earlier wait for it: faster, and
            unfair.
    """

    def __init__(
        self,
        node: Node,
        key: str,
        *,
        ttl_ms: int,
        clock: Clock | None = None,
        on_event: LockEventHook = ignore_event,
        barges: bool = False,
    ) -> None:
        check_terms(key, ttl_ms)
        self.node = node
        self.key = key
        self.ttl_ms = ttl_ms
        self.clock = clock or SystemClock()
        self.on_event = on_event
        self.barges = barges

    async def acquire(self, *, wait_ms: float) -> HeldLease:
        """Acquire until the lease is released, or ends by itself.

        Args:
            wait_ms: how long to wait for the lock at most, in milliseconds; 0 asks once.

        Raises:
            LockTimeout: it was not free in time.
            LockExpired: it was granted so late that nothing of its time was left.
            NodeError: the node could not be asked.
        """
        return await self.acquire_with((), wait_ms=wait_ms)

    async def acquire_with(self, others: Sequence[str], *, wait_ms: float) -> HeldLease:
        """Acquire this key and others on the same node, in one step where they are free.

        Args:
            others: their names; all are taken in ascending order.
            wait_ms: for all together, in milliseconds.

        Raises:
            LockTimeout, LockExpired, NodeError: as `acquire`; none is held then.
        """
        keys = tuple(sorted({self.key, *others}))

        def claim(token: str) -> NodeClaim:
            return NodeClaim(
                self.node, keys, token, ttl_ms=self.ttl_ms, clock=self.clock, barges=self.barges
            )

        return await obtain(claim, keys, wait_ms, self.clock, self.on_event)

    def hold(
        self, *, wait_ms: float, renewal: Renewal | None = None
    ) -> AbstractAsyncContextManager[HeldLease]:
        """Acquire for the length of an ``async with`` body, and release in any case.

        A lease that ends before its body does is reported as the event `lost`, and raised only
        where it was to be renewed: what the body wrote is written, and the fence has judged it.

        Args:
            wait_ms: how long to wait for the lock at most, in milliseconds; 0 asks once.
            renewal: keeps the lease alive while the body runs.

        Raises:
            LockTimeout, LockExpired, NodeError: as `acquire`.
            LockLost: it could not be renewed.
        """
        return hold(self, wait_ms, renewal)
