"""The bytes of one connection: commands out in order, replies in order, each with a deadline.

Commands of one turn of the event loop leave in one write. Replies are matched to commands by
their order (the reply to a SUBSCRIBE of one channel too, although it looks like a push message);
one that comes after its deadline is dropped. All deadlines of a connection are equally long, so the
oldest command is always the first that is due, and one timer serves all.

It does not connect, and does not know what a command means: see `labshop.locks.connection`.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, cast

import hiredis

from labshop.locks.errors import NodeRefused, NodeSilent

Part = str | bytes | int
Reply = Any
"""`str`, `int`, `None`, or a list of replies."""

ONE_TURN_S = 0.001
DEAF_AFTER = 10
"""A connection that was silent for so many deadlines is given up."""


BUSY = ("BUSY", "LOADING")
"""How an error begins after which the same command may be carried out a little later."""


class Pending:
    """A command that was sent, and waits for its reply."""

    __slots__ = ("due_s", "otherwise", "reply", "undo")

    def __init__(
        self,
        reply: "asyncio.Future[Reply]",
        due_s: float,
        otherwise: Callable[[], bytes] | None,
        undo: object,
    ) -> None:
        self.reply = reply
        self.due_s = due_s
        self.otherwise = otherwise
        """Makes the command to send where the node does not know the script."""
        self.undo = undo
        """What has to reach the node even if this connection does not carry it there."""


class Wire(asyncio.Protocol):
    """One connection to a node.

    Args:
        name: of the node, for its errors.
        timeout_s: how long a reply may take.
        on_push: told of messages that the node sends unasked.
        on_lost: told, when the connection has ended, what was never answered, and when the node
            was last heard, in seconds of the loop's clock.
        on_busy: told, one deadline later, of an undo that the node was too busy to carry out.
        moved: how errors begin that say that another node is to be asked: after one of them this
            connection ends.
    """

    def __init__(
        self,
        name: str,
        timeout_s: float,
        on_push: Callable[[Sequence[Reply]], object],
        on_lost: Callable[[Sequence[Pending], float], object],
        on_busy: Callable[[object], object],
        moved: tuple[str, ...] = (),
    ) -> None:
        self.waiting: deque[Pending] = deque()
        self.closed = False
        self.scripts: set[str] = set()
        """The hashes of scripts whose source was sent over this connection."""
        self._name = name
        self._timeout_s = timeout_s
        self._on_push = on_push
        self._on_lost = on_lost
        self._on_busy = on_busy
        self._moved = moved
        self._overdue = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(encoding="utf-8", errors="replace")
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._heard_at_s = self._loop.time()

    def send(
        self,
        parts: Sequence[Part],
        *,
        otherwise: Callable[[], bytes] | None = None,
        undo: object = None,
        more: bool = False,
    ) -> "asyncio.Future[Reply]":
        """Send a command behind all that were sent before.

        Args:
            parts: the command.
            otherwise: makes the packed command to send instead, if the node lacks the script.
            undo: handed to `on_lost` if no reply comes.
            more: another command follows at once; both leave in one write.

        Returns:
            The reply to come. It fails with `NodeRefused`, or with `NodeSilent` when the deadline
            is over or the connection has broken.
        """
        now_s = self._loop.time()
        if not self.waiting:
            self._heard_at_s = now_s  # a rest is no silence
        reply: asyncio.Future[Reply] = self._loop.create_future()
        due_s = now_s + self._timeout_s
        self._write(pack(parts), waits=more or bool(self.waiting))
        self.waiting.append(Pending(reply, due_s, otherwise, undo))
        if self._timer is None:
            self._timer = self._loop.call_at(due_s, self._read_first)
        return reply

    def is_deaf(self) -> bool:
        """Whether the node has been silent for ten deadlines, although it was asked."""
        silence_s = self._loop.time() - self._heard_at_s
        return bool(self.waiting) and silence_s > DEAF_AFTER * self._timeout_s

    def abort(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._flush()
            self._transport.close()
        self.connection_lost(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, for uvloop's transports are of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._heard_at_s = self._loop.time()
        self._reader.feed(data)
        while (value := self._reader.gets()) is not False:
            if isinstance(value, hiredis.PushNotification) and value[0] != "subscribe":
                self._on_push(value)
            elif self.waiting:
                self._answer(self.waiting.popleft(), value)
            else:
                # A server that speaks unasked turns this client away; what comes after is no
                # reply to any command.
                self.abort()
                return

    def connection_lost(self, exc: Exception | None) -> None:
        if self.closed:
            return
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        unanswered = tuple(self.waiting)
        self.waiting.clear()
        for pending in unanswered:
            self._fail(pending, "the connection broke before the reply")
        self._on_lost(unanswered, self._heard_at_s)

    def _answer(self, pending: Pending, value: Reply) -> None:
        if self._overdue:
            self._overdue -= 1
        is_late = pending.reply.done()  # or nobody waits for it any more
        if is_late and pending.undo is None:
            return
        if not isinstance(value, hiredis.ReplyError):
            if not is_late:
                pending.reply.set_result(value)
        elif pending.otherwise is not None and str(value).startswith("NOSCRIPT"):
            pending.due_s = self._loop.time() + self._timeout_s
            packed, pending.otherwise = pending.otherwise(), None
            self._write(packed, waits=True)
            self.waiting.append(pending)
        else:
            if str(value).startswith(self._moved):
                # Not yet: what has come in the same packet are answers too.
                self._loop.call_soon(self.abort)
            if pending.undo is not None and str(value).startswith((*BUSY, *self._moved)):
                self._loop.call_later(self._timeout_s, self._on_busy, pending.undo)
            if not is_late:
                fail(pending.reply, NodeRefused(self._name, str(value)))

    def _write(self, packed: bytes, *, waits: bool) -> None:
        """Write at once where nothing is under way; otherwise with all of this turn of the loop."""
        if not waits and not self._outgoing and self._transport is not None:
            self._transport.write(packed)
            return
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(packed)

    def _read_first(self) -> None:
        """Let the loop read once more before anything is overdue.

        After a long turn of the loop its timers come first, and replies that have come meanwhile
        are not read yet: a node is not to blame for our own slowness.
        """
        self._timer = self._loop.call_later(ONE_TURN_S, self._expire)

    def _expire(self) -> None:
        """Fail what is overdue, and come again when the next command will be."""
        self._timer = None
        now_s = self._loop.time()
        for pending in islice(self.waiting, self._overdue, None):
            if pending.due_s > now_s and not pending.reply.done():
                self._timer = self._loop.call_at(pending.due_s, self._read_first)
                return
            self._overdue += 1
            self._fail(pending, f"no reply within {self._timeout_s * 1_000:.0f} ms")
        if self.is_deaf():
            self.abort()

    def _fail(self, pending: Pending, reason: str) -> None:
        if not pending.reply.done():
            fail(pending.reply, NodeSilent(self._name, reason))

    def _flush(self) -> None:
        if self._outgoing and self._transport is not None and not self.closed:
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()


def pack(parts: Sequence[Part]) -> bytes:
    """A command as Redis reads it."""
    packed: bytes = hiredis.pack_command(tuple(parts))  # type: ignore[arg-type]  # its stub names a pair of one
    return packed


def fail(reply: "asyncio.Future[Reply]", error: Exception) -> None:
    """End a reply by an error; one that nobody waits for any more is no error of anybody's."""
    reply.set_exception(error)
    reply.exception()
