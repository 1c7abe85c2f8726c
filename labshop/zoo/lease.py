"""What the locks of the zoo have in common: a lease, and how it tells of itself."""

from dataclasses import dataclass

from labshop.clock import Clock
from labshop.locks import LockLost
from labshop.locks.base import LockEvent

TTL_MS = 400


@dataclass(frozen=True)
class ZooLease:
    """What the holder of a lock in the zoo believes."""

    key: str
    token: str
    deadline_ms: float
    clock: Clock
    fence: int = 0

    def remaining_ms(self) -> float:
        """Time left, as the holder believes, in milliseconds."""
        return self.deadline_ms - self.clock.now_ms()

    async def extend(self, ttl_ms: int) -> "ZooLease":
        """The locks of the zoo cannot be extended."""
        raise LockLost(self.key, self.token)

    def acquired(self) -> LockEvent:
        """The event of its beginning."""
        now_ms, until_ms = self.clock.now_ms(), self.deadline_ms
        return LockEvent(
            "acquired", self.key, self.token, now_ms, fence=self.fence, until_ms=until_ms
        )

    def released(self) -> LockEvent:
        """The event of its end, told before the release is sent."""
        now_ms = self.clock.now_ms()
        return LockEvent(
            "released", self.key, self.token, now_ms, fence=self.fence, until_ms=now_ms
        )
