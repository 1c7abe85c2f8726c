"""A lock that its holder may take again, where that is really wanted.

A lock here is not re-entrant: a task that takes it twice waits for itself, which shows a mistake in
the design soon. Where a function that needs the lock is also called by one that holds it, wrap it.

The owner is the asyncio task. A task that the holder starts is another owner, and waits.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from labshop.locks.errors import LockLost
from labshop.locks.grant import Acquires
from labshop.locks.lease import HeldLease


class Reentrant:
    """A lock that the task which holds it can hold once more.

    Args:
        lock: any lock; the outermost `hold` acquires it, and releases it.
    """

    def __init__(self, lock: Acquires) -> None:
        self._lock = lock
        self._held: dict[asyncio.Task[object], HeldLease] = {}

    @asynccontextmanager
    async def hold(self, *, wait_ms: float) -> AsyncIterator[HeldLease]:
        """Acquire for the length of an ``async with`` body, or go on with what this task holds.

        Args:
            wait_ms: how long to wait for the lock at most, in milliseconds.

        Raises:
            LockTimeout, NodeError, NoQuorum: as the lock itself.
            LockLost: this task held it, and its time is over.
        """
        owner = asyncio.current_task()
        assert owner is not None
        if owner in self._held:
            lease = self._held[owner]
            if lease.remaining_ms() <= 0:
                raise LockLost(lease.key, lease.token)
            yield lease
            return
        lease = await self._lock.acquire(wait_ms=wait_ms)
        self._held[owner] = lease
        try:
            yield lease
        finally:
            del self._held[owner]
            await lease.holding.end()
