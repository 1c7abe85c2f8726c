"""Finds a cycle of owners who wait for each other, and frees its youngest.

The problem: ordered locks cannot deadlock, but locks that are taken one inside the other, by
several people's code, can; and a deadlock among processes shows in none of them. The idea: whoever
waits notes for what, whoever holds notes that, in one Redis node that all share. Each owner waits
for one lock and each lock has one holder, so a script that follows the arrows comes to an end, or
back to where it began. The youngest of a cycle has the least to lose: it gives way.

It sees only locks that are watched, and only owners that name themselves. A note that is not
renewed is not believed, so a crashed owner closes no cycle. It does not prevent a deadlock, and it
protects nothing: when its node is away, locks go on without it, and end by their time to live.

Source: E. G. Coffman et al., "System Deadlocks" (1971), detection by a wait-for graph.
"""

import asyncio
import json
import secrets
from contextlib import AbstractAsyncContextManager, suppress
from typing import NoReturn, Protocol

from labshop.clock import Clock, SystemClock
from labshop.locks.base import LockEvent, LockEventHook, ignore_event
from labshop.locks.connection import Node
from labshop.locks.errors import DeadlockError, NodeError
from labshop.locks.grant import Acquires, hold
from labshop.locks.lease import Claim, HeldLease
from labshop.locks.renewal import Renewal
from labshop.lua import load_script

LOOK_AFTER_MS = 10
LOOK_EVERY_MS = 100
BELIEVED_MS = 10 * LOOK_EVERY_MS


class Watchable(Acquires, Protocol):
    """A lock on one key."""

    @property
    def key(self) -> str:
        """What is locked."""


class WaitForGraph:
    """Who waits for whom, kept on one node for all processes.

    Args:
        node: where it is kept.
        name: of the graph; locks of another graph are not seen.
    """

    def __init__(
        self, node: Node, *, name: str = "locks", on_event: LockEventHook = ignore_event
    ) -> None:
        self.node = node
        self.on_event = on_event
        self.keys = tuple(f"{{deadlock:{name}}}:{it}" for it in ("waits", "holds", "gives-way"))

    def owner(self, name: str = "") -> "Owner":
        """Someone who takes several locks, one inside the other.

        Args:
            name: for people; a random word makes it unique.
        """
        return Owner(self, f"{name or 'owner'}-{secrets.token_hex(4)}")


class Owner:
    """Takes locks of a graph; one at a time."""

    def __init__(self, graph: WaitForGraph, name: str) -> None:
        self.graph = graph
        self.name = name
        self._born = 0

    def watch(self, lock: Watchable, clock: Clock | None = None) -> "WatchedLock":
        """The same lock, whose waits and holds by this owner are noted."""
        return WatchedLock(self, lock, clock or SystemClock())

    async def until_it_must_give_way(self, key: str) -> NoReturn:
        """Look again and again whether waiting for a key closes a cycle.

        Raises:
            DeadlockError: it does, and this owner is the youngest of it.
        """
        node, script = self.graph.node, load_script("labshop.locks", "wait_for")
        while True:
            call = node.wake_up_call(self.name)
            try:
                args = (self.name, key, self._born, BELIEVED_MS, node.channel)
                born, cycle = await node.run(script, self.graph.keys, args)
                self._born = int(born)
                if cycle:
                    raise DeadlockError(self.name, [(who, what) for who, what in json.loads(cycle)])
            except NodeError:
                # Without its node there is no graph, and locks still end by their time to live.
                await asyncio.sleep(LOOK_EVERY_MS / 1_000)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_MS / 1_000):
                    await call

    def note(self, key: str) -> None:
        """Note that this owner has a lock; never suspends."""
        script = load_script("labshop.locks", "note_holder")
        self.graph.node.post(script, self.graph.keys, (self.name, key))

    def forget(self, key: str = "") -> None:
        """Note that this owner waits no longer, nor holds a lock that is named; never suspends."""
        self.graph.node.forget(self.name)
        script = load_script("labshop.locks", "forget_holder")
        self.graph.node.post(script, self.graph.keys, (self.name, key))


class WatchedLock:
    """A lock in whose queue nobody can be part of a deadlock for long."""

    def __init__(self, owner: Owner, lock: Watchable, clock: Clock) -> None:
        self.key = lock.key
        self.clock = clock
        self._owner = owner
        self._lock = lock

    async def acquire(self, *, wait_ms: float) -> HeldLease:
        """Acquire until the lease is released, or ends by itself.

        Args:
            wait_ms: how long to wait for the lock at most, in milliseconds; 0 asks once.

        Raises:
            DeadlockError: this owner gives way; it should release what it holds, and begin anew.
            LockTimeout, NodeError, NoQuorum: as the lock itself.
        """
        lease = await self._wait(wait_ms)
        self._owner.note(self.key)
        lease.holding.claim = _Noted(lease.holding.claim, self._owner, self.key)
        return lease

    def hold(
        self, *, wait_ms: float, renewal: Renewal | None = None
    ) -> AbstractAsyncContextManager[HeldLease]:
        """Acquire for the length of an ``async with`` body, and release in any case.

        Args:
            wait_ms: how long to wait for the lock at most, in milliseconds.
            renewal: keeps the lease alive while the body runs.

        Raises:
            DeadlockError, LockTimeout, NodeError, NoQuorum: as `acquire`.
        """
        return hold(self, wait_ms, renewal)

    async def _wait(self, wait_ms: float) -> HeldLease:
        """Wait for the lock, and look out for a cycle meanwhile."""
        acquiring = asyncio.create_task(self._lock.acquire(wait_ms=wait_ms))
        looking: asyncio.Task[NoReturn] | None = None
        is_ours = False
        try:
            # Most locks are had at once, and need no note.
            await asyncio.wait((acquiring,), timeout=LOOK_AFTER_MS / 1_000)
            if not acquiring.done():
                looking = asyncio.create_task(self._owner.until_it_must_give_way(self.key))
                await asyncio.wait((acquiring, looking), return_when=asyncio.FIRST_COMPLETED)
            if acquiring.done():
                lease = acquiring.result()
                is_ours = True
                return lease
            assert looking is not None
            self._tell_of_deadlock()
            looking.result()
            raise AssertionError("it looks until it must give way")
        finally:
            # Nothing here suspends: a second cancellation must not leave a lock behind.
            if looking is not None:
                self._owner.forget()
                looking.cancel()
                looking.add_done_callback(_look_at_error)
            if not is_ours:
                acquiring.cancel()
                acquiring.add_done_callback(_give_back)

    def _tell_of_deadlock(self) -> None:
        graph = self._owner.graph
        graph.on_event(LockEvent("deadlocked", self.key, self._owner.name, self.clock.now_ms()))


class _Noted:
    """A claim that is taken out of the graph when it ends."""

    def __init__(self, claim: Claim, owner: Owner, key: str) -> None:
        self._claim = claim
        self._owner = owner
        self._key = key

    async def extend(self, ttl_ms: int) -> float | None:
        return await self._claim.extend(ttl_ms)

    async def release(self) -> bool:
        self._owner.forget(self._key)
        return await self._claim.release()

    def abandon(self) -> None:
        self._owner.forget(self._key)
        self._claim.abandon()

    def leave_turns(self) -> None:
        self._claim.leave_turns()


def _give_back(acquiring: "asyncio.Task[HeldLease]") -> None:
    """Release what was acquired in the very moment in which nobody wanted it any more."""
    if not acquiring.cancelled() and acquiring.exception() is None:
        acquiring.result().holding.abandon()


def _look_at_error(looking: "asyncio.Task[NoReturn]") -> None:
    """Two may see the same cycle; who has the lock by now need not give way."""
    if not looking.cancelled():
        looking.exception()
