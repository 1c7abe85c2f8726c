"""A claim on one or several keys of one node: waiting for them, having them, leaving them.

The idea, line by line:

- a key is taken by one script with a time to live, so that no crash leaves a lock without an end;
- by a random token, compared before every delete, so that nobody removes another's lock;
- "free, or already mine", so that a lost reply does not block its own caller;
- the deadline counts from before the first byte left, by a monotonic clock;
- whoever waits stands in a queue of its process, and the first of a process in one in Redis; a
  release hands the lock to the first living waiter, and wakes it;
- a wake-up can be lost, so a waiter also looks by itself, every `LOOK_AGAIN_MS`, and when the
  lease in its way should end;
- whatever interrupts all this, the undoing is sent behind it on the same connection.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from labshop.clock import Clock
from labshop.locks.connection import Node
from labshop.locks.errors import LockExpired
from labshop.locks.keys import fence_key, lock_key, queue_keys
from labshop.locks.turns import Visitor
from labshop.locks.wire import Part, Reply
from labshop.lua import load_script

LOOK_AGAIN_MS = 200
ALIVE_MS = 5 * LOOK_AGAIN_MS
"""A waiter that has not looked for so long is taken for dead, and skipped."""

OnWait = Callable[[], object]


class NotGranted(Exception):
    """The wait was over first."""


class NodeClaim:
    """One attempt to hold keys of a node, and the holding of them.

    Args:
        node: the server.
        keys: sorted, each once.
        token: names this claim.
        ttl_ms: after this time without an extension, Redis frees them.
        barges: does not queue behind other processes.
    """

    def __init__(
        self,
        node: Node,
        keys: Sequence[str],
        token: str,
        *,
        ttl_ms: int,
        clock: Clock,
        barges: bool = False,
    ) -> None:
        self.sent_ms = 0.0
        self._node = node
        self._names = keys
        self._token = token
        self._ttl_ms = ttl_ms
        self._clock = clock
        self._barges = barges
        self._channel = node.channel
        self._visitors: list[Visitor] = []
        self._reply: asyncio.Future[Reply] | None = None
        self._wake_up: asyncio.Future[None] | None = None
        self._has_asked = False

    async def take(self, wait_ms: float, on_wait: OnWait) -> int:
        """Wait for all keys; returns their fencing token.

        Args:
            wait_ms: for how long.
            on_wait: told once, when they are not free at once.

        Raises:
            NotGranted: they were not free in time.
            LockExpired: they were granted, and the answer came too late.
            NodeError: the node could not be asked.
        """
        until_ms = self._clock.now_ms() + wait_ms
        if wait_ms <= 0:
            self._channel = ""  # it does not queue in Redis
        try:
            await self._take_turns(until_ms, on_wait)
            fence, free_in_ms, _ = await self._answer()
            while not fence:
                left_ms = until_ms - self._clock.now_ms()
                if left_ms <= 0:
                    raise NotGranted  # noqa: TRY301  # what follows it undoes whatever went wrong
                on_wait()
                await self._wait(min(left_ms, free_in_ms) if free_in_ms >= 0 else left_ms)
                fence, free_in_ms, _ = await self._answer()
            self._look_at_the_clock()
            return int(fence)
        except BaseException:
            self._undo()
            raise
        finally:
            self._node.forget(self._token)

    @property
    def deadline_ms(self) -> float:
        """When what was granted ends, counted from before it was asked for."""
        return self.sent_ms + self._ttl_ms

    async def extend(self, ttl_ms: int) -> float | None:
        """See `labshop.locks.lease.Claim`."""
        script = load_script("labshop.locks", "extend_locks")
        sent_ms = self._clock.now_ms()
        locks = [lock_key(name) for name in self._names]
        is_ours = await self._node.run(script, locks, (self._token, ttl_ms))
        return sent_ms + ttl_ms if is_ours else None

    def leave_turns(self) -> None:
        """See `labshop.locks.lease.Claim`."""
        visitors, self._visitors = self._visitors, []
        for visitor in reversed(visitors):
            self._node.turns.leave(visitor)

    def abandon(self) -> None:
        """See `labshop.locks.lease.Claim`."""
        self._undo()

    async def release(self) -> bool:
        """See `labshop.locks.lease.Claim`."""
        return int(await self._undo()) == len(self._names)

    async def _take_turns(self, until_ms: float, on_wait: OnWait) -> None:
        loop = asyncio.get_running_loop()
        last = self._names[-1]
        for name in self._names:
            visitor = self._node.turns.enter(name, self._ask_if_connected if name == last else None)
            self._visitors.append(visitor)
            if visitor.turn is None:
                continue
            on_wait()
            left_s = (until_ms - self._clock.now_ms()) / 1_000
            try:
                async with asyncio.timeout_at(loop.time() + left_s):
                    await visitor.turn
            except TimeoutError:
                raise NotGranted from None

    async def _answer(self) -> Reply:
        if self._reply is None:
            await self._node.ready()
            self._ask(jumps=self._barges)
        assert self._reply is not None
        reply, self._reply = self._reply, None
        return await reply

    def _look_at_the_clock(self) -> None:
        now_ms = self._clock.now_ms()
        if now_ms >= self.deadline_ms:
            raise LockExpired(",".join(self._names), self._ttl_ms, now_ms - self.sent_ms)

    def _ask_if_connected(self) -> None:
        """Called by whoever leaves: its release is on the way, and this goes right behind it."""
        # If it cannot be sent, the waiter finds out by itself; whoever leaves is not to blame.
        with suppress(Exception):
            self._ask(jumps=True)

    def _ask(self, *, jumps: bool) -> None:
        script = load_script("labshop.locks", "acquire_locks")
        keys = [
            key
            for name in self._names
            for key in (lock_key(name), fence_key(name), *queue_keys(name))
        ]
        args = (self._token, self._ttl_ms, self._channel, ALIVE_MS, int(jumps))
        self.sent_ms = self._clock.now_ms()
        # Before it is sent: the wake-up may come in the same packet as the reply.
        self._wake_up = self._node.wake_up_call(self._token)
        self._reply = self._node.send(script, keys, args)
        self._has_asked = True

    async def _wait(self, at_most_ms: float) -> None:
        """Until woken, or until it is time to look again."""
        assert self._wake_up is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(min(at_most_ms + 1, LOOK_AGAIN_MS) / 1_000):
                await self._wake_up

    def _undo(self) -> "asyncio.Future[Reply]":
        """Free or leave all keys, and the turns in this process; it never suspends."""
        turns = self._node.turns
        if self._reply is not None:
            # Nobody waits for it: a node that lost its script must not get the source now.
            self._reply.cancel()
        had_turns = [visitor for visitor in self._visitors if visitor.has_the_turn]
        try:
            if not self._has_asked:
                nothing: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
                nothing.set_result(0)
                return nothing
            script = load_script("labshop.locks", "release_locks")
            keys = [key for name in self._names for key in (lock_key(name), *queue_keys(name))]
            hand_over = [int(not turns.runs_on(visitor.key)) for visitor in had_turns]
            # Whoever has asked has all its turns, or has left them all because its time was over.
            args: tuple[Part, ...] = (self._token, *(hand_over or [1] * len(self._names)))
            return self._node.post(script, keys, args, more=not all(hand_over))
        finally:
            self.leave_turns()
