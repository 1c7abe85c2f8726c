"""Puts a learner's lock in the place of the package's, so that a stage sells under it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from secrets import token_hex

from labshop.clock import Clock, SystemClock
from labshop.lab.grade import Lockish
from labshop.locks import LockLost, LockTimeout, Node

POLL_MS = 2.0


@dataclass(frozen=True)
class OwnLease:
    """An acquisition of a learner's lock: it has no fence, and cannot be extended."""

    key: str
    token: str
    deadline_ms: float
    clock: Clock
    fence: int = 0

    def remaining_ms(self) -> float:
        return self.deadline_ms - self.clock.now_ms()

    async def extend(self, ttl_ms: int) -> "OwnLease":
        raise LockLost(self.key, self.token)


@dataclass(frozen=True)
class OwnLock:
    """A learner's `acquire` and `release` as a `Lock`; who does not get it asks again."""

    mine: Lockish
    node: Node
    key: str
    ttl_ms: int

    @asynccontextmanager
    async def hold(self, *, wait_ms: float) -> AsyncIterator[OwnLease]:
        """See `labshop.locks.Lock.hold`.

        Raises:
            LockTimeout: it was not free within `wait_ms`.
        """
        clock, token = SystemClock(), token_hex(16)
        asked_ms = sent_ms = clock.now_ms()
        while not await self.mine.acquire(self.node, self.key, token, self.ttl_ms):
            if clock.now_ms() - asked_ms > wait_ms:
                raise LockTimeout(self.key, wait_ms)
            await clock.sleep_ms(POLL_MS)
            sent_ms = clock.now_ms()
        try:
            yield OwnLease(self.key, token, sent_ms + self.ttl_ms, clock)
        finally:
            await self.mine.release(self.node, self.key, token)
