"""One ordered connection per node and process, shared by all of its tasks.

The problem: a lock must know what became of its commands. A client with a pool and hidden
retries does not: it may send a `DECRBY` twice, or let a release overtake the `SET` that it
should undo. The idea: every command of this process travels on one connection, in the order
in which it was issued, with a deadline of its own and no retry.

What has to be undone is *posted*: sent behind all that went before, without waiting. If the
connection breaks first, the next one begins by ending the old one at the server (`CLIENT
KILL`), and then sends again what was posted. So whatever the server still finds in the old
socket is carried out before its undoing, or never: a release cannot overtake its set. (Another
run of the server knows nothing of the old socket.)

A node that wakes a waiter says so on the same connection, by RESP3's push messages. Where the node
is may change; it is asked for at each connection: see `labshop.locks.address`.

It does not promise that anything is posted to a node that never comes back; a lock's time to
live is for that. The server must know RESP3 (Redis 6, Valkey) and allow `HELLO`, `INFO`,
`CLIENT` and a subscription to ``labshop:wake:*``.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from labshop.locks.address import address_book
from labshop.locks.errors import NodeDown, NodeError
from labshop.locks.greeting import ServerRun, greet
from labshop.locks.turns import LocalTurns
from labshop.locks.wire import Part, Pending, Reply, Wire, fail, pack
from labshop.lua import Script

Listener = Callable[[str | None], object]


@dataclass(frozen=True)
class Undo:
    """A script that has to reach the node."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[Part, ...]


class Node:
    """A Redis or Valkey server, seen from this process.

    Args:
        url: ``redis://[user:password@]host[:port][/database]``; `labshop.locks.address` tells of
            TLS, a Sentinel pair and a Cluster.
        timeout_ms: how long one command may take, and how long connecting may take.
        backlog: commands that may wait for a reply; one more is refused at once.
        key: any of its keys; in a Cluster, the node is the master that has its slot.
    """

    def __init__(self, url: str, *, timeout_ms: int, backlog: int = 10_000, key: str = "") -> None:
        self._book = address_book(url, timeout_ms=timeout_ms, key=key)
        self.name = self._book.name
        self.host, self.port = self._book.first
        self.has_one_slot = self._book.slot is not None
        """Whether it is one of a Cluster, and is asked for keys of one slot only."""
        self.timeout_ms = timeout_ms
        self.turns = LocalTurns()
        self.quorum_turns = LocalTurns()
        """Those of locks on several nodes, of which this is the first."""
        self.channel = f"labshop:wake:{secrets.token_hex(8)}"
        """Where the node tells this process that one of its waiters may go on."""
        self.connections = 0
        """How often a connection was made; it grows when one was lost and made anew."""
        self._backlog = backlog
        self._wire: Wire | None = None
        self._run: ServerRun | None = None
        self._heard_at_s = 0.0
        self._connecting = asyncio.Lock()
        self._dialling: asyncio.Task[NodeDown | None] | None = None
        self._owed: deque[Undo] = deque(maxlen=backlog)
        self._wakes: dict[str, asyncio.Future[None]] = {}
        self._listeners: dict[str, list[Listener]] = {}

    async def command(self, *parts: Part) -> Reply:
        """Send one command and wait for its reply.

        Raises:
            NodeDown: it was not sent. NodeRefused: an error came back.
            NodeSilent: no reply within the deadline, or the connection broke.
        """
        wire = self._wire
        if wire is None or wire.closed:
            wire = await self._connect()
        self._refuse_if_full(wire)
        return await wire.send(parts)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Part] = ()) -> Reply:
        """Run a Lua script by its hash, and by its source where the node lost it.

        Raises:
            NodeDown, NodeRefused, NodeSilent: see `command`.
        """
        wire = self._wire
        if wire is None or wire.closed:
            wire = await self._connect()
        self._refuse_if_full(wire)
        return await _run(wire, script, keys, args)

    async def ready(self) -> None:
        """Be connected, so that `send` can send.

        Raises:
            NodeDown: it cannot be reached.
        """
        if not self.is_connected:
            await self._connect()

    @property
    def is_connected(self) -> bool:
        """Whether a connection stands, as far as is known."""
        return self._wire is not None and not self._wire.closed

    def send(
        self, script: Script, keys: Sequence[str], args: Sequence[Part]
    ) -> "asyncio.Future[Reply]":
        """Send a script at once, without suspending; its reply is to come.

        Raises:
            NodeDown: there is no connection, or its backlog is full; nothing was sent.
        """
        if self._wire is None or self._wire.closed:
            raise NodeDown(self.name, "it is not connected")
        self._refuse_if_full(self._wire)
        return _run(self._wire, script, keys, args)

    def when_connected(self, then: Callable[[NodeDown | None], object]) -> None:
        """Call back as soon as there is a connection, or it is clear that there will be none.

        Args:
            then: gets None, or why the node cannot be reached. Several share one attempt.
        """
        if self._dialling is None or self._dialling.done():
            self._dialling = asyncio.get_running_loop().create_task(self._try_to_connect())
        closed = NodeDown(self.name, "it was closed meanwhile")
        self._dialling.add_done_callback(
            lambda task: then(closed if task.cancelled() else task.result())
        )

    def post(
        self, script: Script, keys: Sequence[str], args: Sequence[Part], *, more: bool = False
    ) -> "asyncio.Future[Reply]":
        """Send a script that undoes something, behind all that was sent before.

        It never suspends, so a task that is being cancelled can still clean up. If no reply
        comes, the next connection begins with it; of what is owed too long, the oldest is given up.

        Args:
            script: harmless if it is carried out twice.
            keys: of the script.
            args: of the script.
            more: another command follows at once; both leave in one write.

        Returns:
            The reply to come; nobody needs to wait for it.
        """
        undo = Undo(script, tuple(keys), tuple(args))
        wire = self._wire
        if wire is not None and not wire.closed:
            return _run(wire, script, keys, args, undo, more=more)
        self._owed.append(undo)
        refused: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        fail(refused, NodeDown(self.name, "it is not connected"))
        return refused

    def wake_up_call(self, token: str) -> "asyncio.Future[None]":
        """What ends when the node wakes this waiter, or the connection that it waits on breaks.

        Args:
            token: of the waiter; `forget` it when nobody waits any more.
        """
        call = self._wakes.get(token)
        if call is None or call.done():
            call = self._wakes[token] = asyncio.get_running_loop().create_future()
        return call

    def forget(self, token: str) -> None:
        """Nobody waits for this wake-up call any more."""
        self._wakes.pop(token, None)

    def listen(self, channel: str, listener: Listener) -> None:
        """Hear what is published on a channel; nothing, where the server forbids it.

        A message comes before the answer to any command that the server carries out after it.

        Args:
            channel: its full name.
            listener: told each message, and None when a connection broke: some may be lost.
        """
        self._listeners.setdefault(channel, []).append(listener)
        if self._wire is not None and not self._wire.closed:
            self._wire.send(("SUBSCRIBE", channel))

    def young_for_ms(self, age_ms: float) -> float:
        """How much longer the server will be younger than an age, in milliseconds.

        A server that has just started may have forgotten what it granted. Zero or less: it is old
        enough. Known only while connected.
        """
        assert self._run is not None
        now_s = asyncio.get_running_loop().time()
        return age_ms - (now_s - self._run.began_s) * 1_000

    async def close(self) -> None:
        """Drop the connection; commands in flight become `NodeSilent`."""
        if self._dialling is not None:
            self._dialling.cancel()
        if self._wire is not None:
            self._wire.abort()
            self._wire = None

    def _refuse_if_full(self, wire: Wire) -> None:
        if len(wire.waiting) >= self._backlog:
            if wire.is_deaf():
                wire.abort()
            raise NodeDown(self.name, f"{self._backlog} commands wait for an answer already")

    async def _try_to_connect(self) -> NodeDown | None:
        try:
            await self._connect()
        except NodeDown as down:
            return down
        return None

    async def _connect(self) -> Wire:
        try:
            async with asyncio.timeout(self.timeout_ms / 1_000), self._connecting:
                if self._wire is None or self._wire.closed:
                    self._wire = await self._dial()
                return self._wire
        except TimeoutError:
            raise NodeDown(self.name, "no connection in time") from None

    async def _dial(self) -> Wire:
        book, loop = self._book, asyncio.get_running_loop()
        self.host, self.port = await book.find()
        name = f"{self.host}:{self.port}"

        def make() -> Wire:
            timeout_s = self.timeout_ms / 1_000
            return Wire(name, timeout_s, self._hear, self._lose, self._send_again, book.moved)

        try:
            _, wire = await loop.create_connection(make, self.host, self.port, ssl=book.tls)
        except (OSError, UnicodeError) as error:
            raise NodeDown(name, str(error)) from None
        try:
            run = await greet(wire, book.greeting, self.channel, self._run, self._heard_at_s)
        except NodeError as refusal:
            wire.abort()
            raise NodeDown(name, refusal.reason) from None
        except (KeyError, TypeError, ValueError) as error:
            wire.abort()
            raise NodeDown(name, f"it does not answer as Redis does: {error!r}") from None
        except BaseException:
            wire.abort()
            raise
        if book.names_masters and not run.is_master:
            wire.abort()
            raise NodeDown(name, "it is a replica")
        self.connections += 1
        if self._run is not None and self._run.run_id == run.run_id:
            # What the server has not read from the old connection, it shall not read any more.
            wire.send(("CLIENT", "KILL", "ID", self._run.client_id))
        self._run = run
        for listened in self._listeners:
            wire.send(("SUBSCRIBE", listened))
        while self._owed:
            undo = self._owed.popleft()
            _run(wire, undo.script, undo.keys, undo.args, undo)
        return wire

    def _hear(self, message: Sequence[Reply]) -> None:
        if message[0] == "message":
            for listener in self._listeners.get(message[1], ()):
                listener(message[2])
            call = self._wakes.pop(message[2], None)
            if call is not None and not call.done():
                call.set_result(None)

    def _send_again(self, undo: object) -> None:
        """Undo something once more that the node was too busy for."""
        if isinstance(undo, Undo):
            self.post(undo.script, undo.keys, undo.args)

    def _lose(self, unanswered: Sequence[Pending], heard_at_s: float) -> None:
        self._heard_at_s = max(self._heard_at_s, heard_at_s)
        self._owed.extend(it.undo for it in unanswered if isinstance(it.undo, Undo))
        for call in self._wakes.values():
            if not call.done():
                call.set_result(None)
        self._wakes.clear()
        for listener in chain.from_iterable(self._listeners.values()):
            listener(None)


def _run(
    wire: Wire,
    script: Script,
    keys: Sequence[str],
    args: Sequence[Part],
    undo: Undo | None = None,
    *,
    more: bool = False,
) -> "asyncio.Future[Reply]":
    rest = (len(keys), *keys, *args)
    if script.sha not in wire.scripts:
        # Its source comes first over each connection, so that order never hangs on NOSCRIPT.
        wire.scripts.add(script.sha)
        return wire.send(("EVAL", script.source, *rest), undo=undo, more=more)
    return wire.send(
        ("EVALSHA", script.sha, *rest),
        otherwise=lambda: pack(("EVAL", script.source, *rest)),
        undo=undo,
        more=more,
    )
