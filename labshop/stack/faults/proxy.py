"""The connections of one client to one server, through a port that stands between them.

The problem: a fault must be able to come, go and break things while a client and a server talk,
and neither may notice that somebody is between them. The idea: each connection of the client is
accepted here and dialled on to the server. What one socket receives goes to the other through a
stream, also the end: a FIN is handed on as a FIN, behind what was sent before it, and a RST as a
RST. A server that is not there is answered for by a RST.

All of this runs on one event loop.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from labshop.stack.faults.conditions import Conditions, Tally, Way
from labshop.stack.faults.stream import Ending, Stream
from labshop.stack.ports import LOOPBACK

DIAL_DEADLINE_S = 5.0
_RESET_WHEN_CLOSED = struct.pack("ii", 1, 0)


class Link:
    """One client's way to one server: a port of its own, and the connections that came to it.

    Args:
        server_port: gives the server's port, anew for each connection.
        dials: the tasks that are connecting to the server.
    """

    def __init__(self, server_port: Callable[[], int], dials: asyncio.TaskGroup) -> None:
        self.server_port = server_port
        self.dials = dials
        self.conditions = Conditions(())
        self.connections: set[_Connection] = set()
        self.accepted = 0
        self.tallies = {way: Tally() for way in Way}
        # A port that is bound and not listened on refuses, and is nobody else's meanwhile.
        self._bound = _bind(0)
        self.port: int = self._bound.getsockname()[1]
        self._listener: asyncio.Server | None = None

    @property
    def listens(self) -> bool:
        """Whether a client can connect."""
        return self._listener is not None

    async def suffer(self, conditions: Conditions) -> None:
        """Let these conditions hold from this moment on, and no others."""
        self.conditions = conditions
        if conditions.refuses:
            self._refuse()
        elif self._listener is None:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(
                self._accept, sock=self._bound, start_serving=False
            )
            await self._listener.start_serving()
        for connection in tuple(self.connections):
            connection.suffer()

    def reset(self) -> None:
        """Break all connections that there are."""
        for connection in tuple(self.connections):
            connection.reset()

    def close(self) -> None:
        """End it for ever."""
        self._refuse()
        self._bound.close()

    def _refuse(self) -> None:
        self.reset()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self._bound = _bind(self.port)

    def _accept(self) -> asyncio.Protocol:
        self.accepted += 1
        return _Connection(self).client


class _Connection:
    """A client's socket, the socket to the server that belongs to it, and the two ways."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._dialling: asyncio.Task[None] | None = None
        self.client, self.server = _End(self), _End(self)
        requests = Stream(link, Way.REQUESTS, self.client, self.server)
        replies = Stream(link, Way.REPLIES, self.server, self.client)
        self.client.feeds = self.server.fed_by = requests
        self.server.feeds = self.client.fed_by = replies
        self._streams = (requests, replies)
        link.connections.add(self)

    def suffer(self) -> None:
        """Do what the link's conditions allow from this moment on."""
        conditions = self._link.conditions
        if not self._link.listens:
            self.reset()
        elif not conditions.holds:
            if any(stream.is_beyond_repair for stream in self._streams):
                self.reset()
            else:
                self._go_on()

    def reset(self) -> None:
        """Break it, as both sides see."""
        if self._dialling is not None:
            self._dialling.cancel()
        self.client.reset()
        self.server.reset()

    def tidy(self) -> None:
        """Close what both ways have come to the end of, and forget what is closed."""
        if all(stream.ended for stream in self._streams):
            self.client.close()
            self.server.close()
        if not self.client.open and not self.server.open:
            if self._dialling is not None:
                self._dialling.cancel()
            self._link.connections.discard(self)

    def _go_on(self) -> None:
        if self._dialling is None:
            self._dialling = self._link.dials.create_task(self._dial())
        for stream in self._streams:
            stream.pump()

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DIAL_DEADLINE_S):
                port = self._link.server_port()
                await loop.create_connection(lambda: self.server, LOOPBACK, port)
        except OSError:  # nobody listens there, or nobody accepted in time
            self.client.reset()


class _End(asyncio.Protocol):
    """One of the two sockets of a connection: it feeds one stream, and is fed by the other."""

    feeds: Stream
    fed_by: Stream

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._transport: asyncio.Transport | None = None

    @property
    def open(self) -> bool:
        """Whether there is a socket."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connection.suffer()

    def data_received(self, data: bytes) -> None:
        self.feeds.take(data)

    def eof_received(self) -> bool:
        self.feeds.take(Ending.CLOSED)
        return True  # the other way goes on

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.fed_by.discard()
        if exc is not None:
            self.feeds.take(Ending.BROKEN)
        self._connection.tidy()

    def pause_writing(self) -> None:
        self.fed_by.sink_is_full = True

    def resume_writing(self) -> None:
        self.fed_by.sink_is_full = False
        self.fed_by.pump()

    def send(self, sent: bytes | Ending) -> None:
        """Hand on bytes, or the end that the other side has made."""
        if self._transport is None or self._transport.is_closing():
            return
        if isinstance(sent, bytes):
            self._transport.write(sent)
        elif sent is Ending.CLOSED:
            with suppress(OSError):  # it is gone already, and says so next
                self._transport.write_eof()
            self._connection.tidy()
        else:
            self._connection.reset()

    def read(self, wanted: bool) -> None:
        """Receive, or let the sender wait."""
        if self._transport is None:
            return
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        if self._transport is not None:
            wire = self._transport.get_extra_info("socket")
            with suppress(OSError):  # macOS knows no options of a socket that is broken already
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_WHEN_CLOSED)
            self._transport.abort()


def _bind(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((LOOPBACK, port))
    return bound
