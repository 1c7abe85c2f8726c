"""A lock on a majority of independent nodes: the lock of stage v3.

The problem: a lock on one node is gone when that node is. The idea, as S. Sanfilippo describes it:

- every node is asked at once, each for itself, and a majority decides; nobody waits for the rest;
- the lease is valid for its time to live, less the time that asking took, less what the clocks of
  the nodes may drift apart meanwhile; with nothing left, it was not granted;
- whoever does not get a majority takes all votes back, waits for a random time, and tries again;
- a node that started less than a time to live ago may have forgotten a vote, so it has none.

It does not promise mutual exclusion when a node's clock jumps, when two nodes forget at once, or
when the holder pauses. A counter in Redis would not survive a failover, so the fencing token is
somebody else's to give: `next_fence`, such as a sequence in the SQL database being protected.

Sources: Redis documentation, "Distributed Locks with Redis", section on Redlock; M. Kleppmann,
"How to do distributed locking" (2016); S. Sanfilippo, "Is Redlock safe?" (2016).
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from labshop.clock import Clock, SystemClock
from labshop.locks.base import LockEventHook, ignore_event
from labshop.locks.connection import Node
from labshop.locks.grant import hold, obtain
from labshop.locks.keys import check_terms
from labshop.locks.lease import HeldLease
from labshop.locks.quorum import QuorumClaim, Terms
from labshop.locks.renewal import Renewal

NextFence = Callable[[str], Awaitable[int]]
"""Gives a number greater than all before, for a key."""


class Redlock:
    """A lock on one key of several independent nodes.

    Args:
        nodes: an odd number of masters, none a replica of another. Their timeouts should be far
            below `ttl_ms`.
        key: what is locked. Keys that begin with ``lock:{key}`` are used on each.
        ttl_ms: after this time the lock frees itself.
        drift_factor: how much the clocks of the nodes may run apart, as a share of `ttl_ms`.
        quarantine_ms: for so long a node that has just started does not vote; it must be the
            longest time to live in use, which is taken to be `ttl_ms`. 0 where nodes write every
            vote to disk before they answer (``appendfsync always``).
        retry_ms: the least and the longest pause before a lost vote is tried again.
        next_fence: gives the fencing token of each lease; without it leases have none.
        on_event: told of everything that happens to this lock.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        key: str,
        *,
        ttl_ms: int,
        drift_factor: float = 0.01,
        quarantine_ms: int | None = None,
        retry_ms: tuple[float, float] = (1.0, 20.0),
        next_fence: NextFence | None = None,
        clock: Clock | None = None,
        on_event: LockEventHook = ignore_event,
    ) -> None:
        check_terms(key, ttl_ms)
        self.nodes = tuple(nodes)
        self.key = key
        self.clock = clock or SystemClock()
        self.on_event = on_event
        self.next_fence = next_fence
        self.terms = Terms(
            ttl_ms=ttl_ms,
            drift_ms=ttl_ms * drift_factor + 2,
            quarantine_ms=ttl_ms if quarantine_ms is None else quarantine_ms,
            retry_ms=retry_ms,
        )

    @property
    def quorum(self) -> int:
        """How many nodes must agree."""
        return len(self.nodes) // 2 + 1

    async def acquire(self, *, wait_ms: float) -> HeldLease:
        """Acquire until the lease is released, or ends by itself.

        Args:
            wait_ms: how long to wait for the lock at most, in milliseconds; 0 asks once.

        Raises:
            LockTimeout: others held it. NoQuorum: too few nodes could vote; it says which, and why.
            LockExpired: a majority agreed, and too late.
        """

        def claim(token: str) -> QuorumClaim:
            return QuorumClaim(
                self.nodes, self.key, token, self.terms, self.clock, next_fence=self.next_fence
            )

        return await obtain(claim, (self.key,), wait_ms, self.clock, self.on_event)

    def hold(
        self, *, wait_ms: float, renewal: Renewal | None = None
    ) -> AbstractAsyncContextManager[HeldLease]:
        """Acquire for the length of an ``async with`` body, and release in any case.

        Args:
            wait_ms: how long to wait for the lock at most, in milliseconds; 0 asks once.
            renewal: keeps the lease alive while the body runs.

        Raises:
            LockTimeout, NoQuorum, LockExpired: as `acquire`. LockLost: it could not be renewed.
        """
        return hold(self, wait_ms, renewal)
