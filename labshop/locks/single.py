"""A lock on one Redis node: the lock of stage v1.

The problem: one holder at a time for a key, also when holders crash, pause or lose a reply.
The idea, line by line:

- `SET key token NX PX ttl` in one command, so that no crash leaves a lock without an end;
- a random token, compared before every delete, so that nobody removes another's lock;
- "free, or already mine", so that a lost reply does not block its own caller;
- a deadline counted from before the first byte left, by a monotonic clock;
- whatever interrupts an acquisition, its undoing is sent behind it on the same connection.

It does not promise mutual exclusion when the node loses its memory, fails over to a replica,
or when its clock jumps, nor that a paused holder notices the end of its lease: the fencing
token is for that. A waiter in another process polls; it is not woken, and not in order.

Source: Redis documentation, "Distributed Locks with Redis", section on a single instance.
"""

import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from labshop.clock import Clock, SystemClock
from labshop.locks.base import (
    LockEvent,
    LockEventHook,
    LockEventKind,
    LockLost,
    LockTimeout,
    ignore_event,
)
from labshop.locks.connection import Node, NodeDown, NodeError
from labshop.locks.turns import NoTurn
from labshop.lua import load_script

POLL_MIN_MS, POLL_MAX_MS = 2, 12


class SingleLock:
    """A lock on one key of one node.

    Args:
        node: the server that keeps the lock.
        key: what is locked. The keys ``lock:{key}`` and ``lock:{key}:fence`` are used.
        ttl_ms: after this time the lock frees itself.
        on_event: told of everything that happens to this lock.
    """

    def __init__(
        self,
        node: Node,
        key: str,
        *,
        ttl_ms: int,
        clock: Clock | None = None,
        on_event: LockEventHook = ignore_event,
    ) -> None:
        self.node = node
        self.key = key
        self.ttl_ms = ttl_ms
        self.clock = clock or SystemClock()
        self._on_event = on_event
        self._keys = (f"lock:{{{key}}}", f"lock:{{{key}}}:fence")

    @asynccontextmanager
    async def hold(self, *, wait_ms: float) -> AsyncIterator["SingleLease"]:
        """Acquire for the length of an ``async with`` body, and release in any case.

        A lease that ends before its body does is reported as the event `lost`, not raised:
        what the body wrote is written, and the fence has judged it.

        Args:
            wait_ms: how long to wait for the lock at most, in milliseconds.

        Raises:
            LockTimeout: it was not free in time.
            NodeError: the node could not be asked.
        """
        asked_ms = self.clock.now_ms()
        try:
            async with self.node.turns.take(self.key, wait_s=wait_ms / 1_000):
                lease = await self._acquire(asked_ms + wait_ms)
                try:
                    waited_ms = self.clock.now_ms() - asked_ms
                    self._tell_of("acquired", lease, lease.deadline_ms, waited_ms=waited_ms)
                    yield lease
                finally:
                    await self._release(lease)
        except NoTurn:
            now_ms = self.clock.now_ms()
            self._on_event(
                LockEvent("timed_out", self.key, "", now_ms, waited_ms=now_ms - asked_ms)
            )
            raise LockTimeout(self.key, wait_ms) from None

    async def _acquire(self, deadline_ms: float) -> "SingleLease":
        token = secrets.token_hex(16)
        while True:
            sent_ms = self.clock.now_ms()
            fence, free_in_ms = await self._try(token)
            now_ms = self.clock.now_ms()
            if fence:
                return SingleLease(self, self.key, token, fence, sent_ms, sent_ms + self.ttl_ms)
            # A random pause keeps two processes from asking in step for ever.
            pause_ms = random.uniform(POLL_MIN_MS, min(POLL_MAX_MS, max(POLL_MIN_MS, free_in_ms)))  # noqa: S311
            if now_ms + pause_ms > deadline_ms:
                raise NoTurn
            await self.clock.sleep_ms(pause_ms)

    async def _try(self, token: str) -> tuple[int, int]:
        acquire = load_script("labshop.locks", "acquire_lock")
        try:
            fence, free_in_ms = await self.node.run(acquire, self._keys, (token, self.ttl_ms))
        except NodeDown:
            raise
        except BaseException:
            # Cancelled, or no reply: the lock may have been set. The undoing cannot overtake it.
            self.node.post(load_script("labshop.locks", "release_lock"), self._keys[:1], (token,))
            raise
        return int(fence), int(free_in_ms)

    async def _release(self, lease: "SingleLease") -> None:
        release = load_script("labshop.locks", "release_lock")
        kind: LockEventKind = "abandoned"
        asked_ms = self.clock.now_ms()
        try:
            was_ours = await self.node.run(release, self._keys[:1], (lease.token,))
            kind = "released" if was_ours else "lost"
        except NodeError:
            # The body's outcome stands; a lock that cannot be released ends with its time.
            pass
        except BaseException:
            # Cancelled: whatever the release met on its way, this one follows it.
            self.node.post(release, self._keys[:1], (lease.token,))
            raise
        finally:
            held_ms = self.clock.now_ms() - lease.since_ms
            self._tell_of(kind, lease, asked_ms, held_ms=held_ms)

    def _tell_of(
        self, kind: LockEventKind, lease: "SingleLease", until_ms: float, **details: float
    ) -> None:
        now_ms, fence = self.clock.now_ms(), lease.fence
        self._on_event(
            LockEvent(
                kind, self.key, lease.token, now_ms, fence=fence, until_ms=until_ms, **details
            )
        )


@dataclass(frozen=True)
class SingleLease:
    """One acquisition of a `SingleLock`; times are milliseconds of its lock's clock."""

    lock: SingleLock
    key: str
    token: str
    fence: int
    since_ms: float
    deadline_ms: float

    def remaining_ms(self) -> float:
        """Time left, in milliseconds; negative when the lease is over."""
        return self.deadline_ms - self.lock.clock.now_ms()

    async def extend(self, ttl_ms: int) -> "SingleLease":
        """Prolong the lease to `ttl_ms` from now, if it is still ours; never shorten it.

        Raises:
            LockLost: the key ended, or is another's.
            NodeError: the node could not be asked; this lease stands as it was.
        """
        lock = self.lock
        sent_ms = lock.clock.now_ms()
        extend = load_script("labshop.locks", "extend_lock")
        if not await lock.node.run(extend, lock._keys[:1], (self.token, ttl_ms)):  # noqa: SLF001
            raise LockLost(self.key, self.token)
        longer = replace(self, deadline_ms=max(self.deadline_ms, sent_ms + ttl_ms))
        lock._tell_of("extended", longer, longer.deadline_ms)  # noqa: SLF001
        return longer
