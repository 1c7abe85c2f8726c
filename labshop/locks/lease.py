"""A lease of our locks: a value, and behind it the holding that it is a lease of.

The value never changes: an extension makes a new one. What happens to the acquisition as a whole,
its newest deadline and its loss, is known by the *holding* that all its leases share.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from labshop.clock import Clock
from labshop.locks.base import LockEvent, LockEventHook, LockEventKind, ignore_event
from labshop.locks.errors import LockLost, NodeError, NoQuorum


class Claim(Protocol):
    """What a kind of lock does for its holder."""

    async def extend(self, ttl_ms: int) -> float | None:
        """Prolong it; returns the new deadline, or None when it is not ours any more.

        Raises:
            NodeError, NoQuorum: nobody could be asked; the old deadline stands.
        """

    async def release(self) -> bool:
        """Free it; returns whether it was still ours. It is sent before this suspends.

        Raises:
            NodeError, NoQuorum: it was not answered.
        """

    def abandon(self) -> None:
        """Free it without waiting for an answer."""

    def leave_turns(self) -> None:
        """Let the next task of this process ask: this one's time is over."""


@dataclass(eq=False)
class Holding:
    """One acquisition, from its grant to its release."""

    claim: Claim
    clock: Clock
    on_event: LockEventHook
    keys: tuple[str, ...]
    token: str
    fence: int
    since_ms: float
    deadline_ms: float
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    is_released: bool = False

    def __post_init__(self) -> None:
        self._timer = self._start_timer()

    def lease(self) -> "HeldLease":
        """The lease as it stands."""
        key = self.keys[0] if len(self.keys) == 1 else ",".join(self.keys)
        return HeldLease(key, self.token, self.fence, self.since_ms, self.deadline_ms, self)

    async def end(self) -> bool:
        """Release and tell of it; returns whether it was still ours, as far as is known.

        What the body of the lock did stands, so a release that nobody answered is no error: the
        time to live ends the lease.
        """
        if self.is_released:
            return not self.lost.is_set()
        self.is_released = True
        self._timer.cancel()
        asked_ms = self.clock.now_ms()
        kind: LockEventKind = "abandoned"
        try:
            kind = "released" if await self.claim.release() else "lost"
        except (NodeError, NoQuorum):
            pass
        finally:
            if kind == "lost":
                self.lost.set()
            self.tell(kind, asked_ms, held_ms=asked_ms - self.since_ms)
        return kind == "released"

    def abandon(self) -> None:
        """Release without waiting for an answer; it never suspends."""
        if not self.is_released:
            self.is_released = True
            self._timer.cancel()
            self.claim.abandon()
            now_ms = self.clock.now_ms()
            self.tell("abandoned", now_ms, held_ms=now_ms - self.since_ms)

    def _start_timer(self) -> asyncio.TimerHandle:
        left_s = (self.deadline_ms - self.clock.now_ms()) / 1_000
        return asyncio.get_running_loop().call_later(left_s, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        """A holder that hangs keeps nobody of its process waiting beyond its time."""
        if self.deadline_ms > self.clock.now_ms():
            self._timer = self._start_timer()  # it was extended
        else:
            self.claim.leave_turns()

    def tell(
        self, kind: LockEventKind, until_ms: float, *, waited_ms: float = 0.0, held_ms: float = 0.0
    ) -> None:
        """Tell the hook of something that happened, once for each key."""
        if self.on_event is ignore_event:
            return
        now_ms, fence = self.clock.now_ms(), self.fence
        for key in self.keys:
            self.on_event(
                LockEvent(kind, key, self.token, now_ms, fence, waited_ms, held_ms, until_ms)
            )


@dataclass(frozen=True, eq=False)
class HeldLease:
    """One acquisition; times are milliseconds of its lock's clock."""

    key: str
    token: str
    fence: int
    since_ms: float
    deadline_ms: float
    holding: Holding = field(repr=False)

    @property
    def lost(self) -> asyncio.Event:
        """Set when this process has learnt that the lease has ended before its holder was done."""
        return self.holding.lost

    def remaining_ms(self) -> float:
        """Time left, all extensions counted, in milliseconds; negative when the lease is over."""
        return self.holding.deadline_ms - self.holding.clock.now_ms()

    async def extend(self, ttl_ms: int) -> "HeldLease":
        """Prolong the lease to `ttl_ms` from now, if it is still ours; never shorten it.

        Raises:
            LockLost: a key ended, or is another's, or the answer came after the old deadline.
            NodeError, NoQuorum: nobody could be asked; this lease stands as it was.
        """
        holding = self.holding
        if holding.is_released or holding.lost.is_set():
            raise LockLost(self.key, self.token)
        deadline_ms = await holding.claim.extend(ttl_ms)
        if deadline_ms is None:
            holding.lost.set()
            raise LockLost(self.key, self.token)
        holding.deadline_ms = max(holding.deadline_ms, deadline_ms)
        longer = holding.lease()
        holding.tell("extended", longer.deadline_ms)
        return longer

    async def release(self) -> None:
        """End the lease.

        Raises:
            LockLost: it had ended before, or its release was not answered in time.
        """
        if self.holding.is_released or not await self.holding.end():
            raise LockLost(self.key, self.token)
