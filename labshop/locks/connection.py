"""One ordered connection per node and process, shared by all of its tasks.

The problem: a lock must know what became of its commands. A client with a pool and hidden
retries does not: it may send a `DECRBY` twice, or let a release overtake the `SET` that it
should undo. The idea: every command of this process travels on one connection, in the order
in which it was issued, with a deadline of its own and no retry; commands of one turn of the
event loop leave in one write. A reply that comes too late is matched to its command and
dropped.

It does not promise order across a reconnection: what a stopped server still holds in its old
socket may be carried out after commands of the new one. Scripts are therefore idempotent,
and locks end by themselves.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import hiredis

from labshop.locks.base import LockError
from labshop.locks.turns import LocalTurns
from labshop.lua import Script

Part = str | bytes | int
Reply = Any
"""`str`, `int`, `None`, or a list of replies."""


class NodeError(LockError):
    """A node could not be asked, refused, or did not answer."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"Redis at {node}: {reason}")
        self.node = node
        self.reason = reason


class NodeDown(NodeError):
    """The command was not sent: nothing happened."""


class NodeRefused(NodeError):
    """The node answered with an error: nothing happened."""


class NodeSilent(NodeError):
    """The command was sent and not answered: nobody knows whether it was carried out."""

    definite = False


class Node:
    """A Redis or Valkey server, seen from this process.

    Args:
        url: ``redis://[user:password@]host[:port][/database]``, or ``rediss://`` for TLS.
        timeout_ms: how long one command may take, and how long connecting may take.
        backlog: commands that may wait for a reply; one more is refused at once.
    """

    def __init__(self, url: str, *, timeout_ms: int, backlog: int = 10_000) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 6379
        self.name = f"{self.host}:{self.port}"
        self.turns = LocalTurns()
        self._tls = ssl.create_default_context() if parts.scheme == "rediss" else None
        self._greeting = _greeting(parts.username, parts.password, parts.path)
        self._timeout_s = timeout_ms / 1_000
        self._backlog = backlog
        self.connections = 0
        """How often a connection was made; it grows when one was lost and made anew."""
        self._wire: _Wire | None = None
        self._connecting = asyncio.Lock()
        self._owed: deque[tuple[Part, ...]] = deque(maxlen=backlog)

    async def command(self, *parts: Part) -> Reply:
        """Send one command and wait for its reply.

        Raises:
            NodeDown: it was not sent. NodeRefused: an error came back.
            NodeSilent: no reply within the deadline, or the connection broke.
        """
        wire = self._wire
        if wire is None or wire.closed:
            wire = await self._connect()
        if len(wire.waiting) >= self._backlog:
            wire.drop_if_deaf(self._timeout_s)
            raise NodeDown(self.name, f"{self._backlog} commands wait for an answer already")
        return await self._answer(wire, wire.send(parts))

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Part] = ()) -> Reply:
        """Run a Lua script by its hash, and by its source where the node lost it."""
        parts = (len(keys), *keys, *args)
        try:
            return await self.command("EVALSHA", script.sha, *parts)
        except NodeRefused as refusal:
            if not refusal.reason.startswith("NOSCRIPT"):
                raise
            return await self.command("EVAL", script.source, *parts)

    def post(self, script: Script, keys: Sequence[str], args: Sequence[Part] = ()) -> None:
        """Send a script behind all that was sent before, without waiting for its reply.

        It never suspends, so a task that is being cancelled can still clean up. Without a
        connection it is kept, and is the first that the next connection sends; of what is kept
        or unanswered too long already, the oldest is given up.
        """
        command = ("EVAL", script.source, len(keys), *keys, *args)
        wire = self._wire
        if wire is None or wire.closed or len(wire.waiting) >= 2 * self._backlog:
            self._owed.append(command)
        else:
            wire.send(command)

    async def close(self) -> None:
        """Drop the connection; commands in flight become `NodeSilent`."""
        if self._wire is not None:
            self._wire.abort()
            self._wire = None

    async def _answer(self, wire: "_Wire", reply: "asyncio.Future[Reply]") -> Reply:
        try:
            async with asyncio.timeout(self._timeout_s):
                value = await reply
        except TimeoutError:
            wire.drop_if_deaf(self._timeout_s)
            raise NodeSilent(
                self.name, f"no reply within {self._timeout_s * 1_000:.0f} ms"
            ) from None
        except ConnectionError as broken:
            raise NodeSilent(self.name, str(broken)) from None
        if isinstance(value, hiredis.ReplyError):
            raise NodeRefused(self.name, str(value))
        return value

    async def _connect(self) -> "_Wire":
        try:
            async with asyncio.timeout(self._timeout_s), self._connecting:
                if self._wire is None or self._wire.closed:
                    self._wire = await self._dial()
                return self._wire
        except TimeoutError:
            raise NodeDown(self.name, "no connection in time") from None

    async def _dial(self) -> "_Wire":
        loop = asyncio.get_running_loop()
        try:
            _, wire = await loop.create_connection(_Wire, self.host, self.port, ssl=self._tls)
        except OSError as error:
            raise NodeDown(self.name, str(error)) from None
        try:
            for greeting in self._greeting:
                await self._answer(wire, wire.send(greeting))
        except NodeError as refusal:
            wire.abort()
            raise NodeDown(self.name, refusal.reason) from None
        except BaseException:
            wire.abort()
            raise
        self.connections += 1
        while self._owed:
            wire.send(self._owed.popleft())
        return wire


class _Wire(asyncio.Protocol):
    """The bytes: commands out in order, replies in order."""

    def __init__(self) -> None:
        self.waiting: deque[asyncio.Future[Reply]] = deque()
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(encoding="utf-8", errors="replace")
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._heard_at = self._loop.time()

    def send(self, parts: Sequence[Part]) -> "asyncio.Future[Reply]":
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        if not self.waiting:
            self._heard_at = self._loop.time()  # a rest is no silence
        self._outgoing.append(hiredis.pack_command(tuple(parts)))  # type: ignore[arg-type]  # its stub names a pair of one
        reply: asyncio.Future[Reply] = self._loop.create_future()
        self.waiting.append(reply)
        return reply

    def drop_if_deaf(self, timeout_s: float) -> None:
        """Give up a connection that was silent for ten deadlines; the next command dials anew."""
        if self._loop.time() - self._heard_at > 10 * timeout_s:
            self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._flush()
            self._transport.close()
        self.connection_lost(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, for uvloop's transports are of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        self._reader.feed(data)
        while (value := self._reader.gets()) is not False:
            if not self.waiting:
                # A server that speaks unasked turns this client away; what comes after is no
                # reply to any command.
                self.abort()
                return
            reply = self.waiting.popleft()
            if not reply.done():
                reply.set_result(value)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        while self.waiting:
            reply = self.waiting.popleft()
            if not reply.done():
                reply.set_exception(ConnectionError("the connection broke before the reply"))
                # A reply that nobody waits for any more is no error of anybody's.
                reply.exception()

    def _flush(self) -> None:
        if self._outgoing and self._transport is not None and not self.closed:
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()


def _greeting(username: str | None, password: str | None, path: str) -> list[tuple[Part, ...]]:
    """The commands that a new connection starts with."""
    commands: list[tuple[Part, ...]] = []
    if password:
        who = (unquote(username),) if username else ()
        commands.append(("AUTH", *who, unquote(password)))
    if path.strip("/"):
        commands.append(("SELECT", path.strip("/")))
    return commands
