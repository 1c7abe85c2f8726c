"""The server process: uvicorn, with the deadline that it lacks.

It waits for the rest of a request's headers for ever, however many they are. Whoever sends
them drop by drop holds a connection, and a clean stop with it; whoever sends them without
end fills the memory. Here the connection is closed instead.
"""

import asyncio
import gc
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from labshop.api.admission import HOLD_OFF
from labshop.api.app import create_app
from labshop.errors import SetupError
from labshop.settings import Settings

BACKLOG = 2_048
HEADER_LIMIT_BYTES = 65_536
ACCEPTED_IN_A_TURN = 32
STOP_S = 5
GC_THRESHOLD = 100_000
"""New objects between two looks of the garbage collector; by default, 700 cost a pause every few
requests, and with a thousand of them under way each pause is long."""


def run(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: with `gate_url` and `api_port` filled in.

    Raises:
        SetupError: a setting is not usable.
    """
    if settings.gate_url is None or settings.api_port is None:
        raise SetupError("The API needs LABSHOP_GATE_URL and LABSHOP_API_PORT.")
    config = uvicorn.Config(
        create_app(settings, gate_url=settings.gate_url),
        host=settings.api_host,
        port=settings.api_port,
        http=headers_within(settings.receive_timeout_ms),
        ws="none",
        # Anybody can send X-Forwarded-For, and there is no proxy here that would check it.
        proxy_headers=False,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=STOP_S,
    )
    # What has been built by now lives as long as the process: the collector need not look at it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    uvicorn.Server(config).run(listeners(config.bind_socket()))


def listeners(listener: socket.socket) -> list[socket.socket]:
    """One listening socket, so many times that a crowd comes in within a few turns of the loop.

    In each turn, uvloop accepts a connection or two of each socket that it listens on. Under load
    a turn takes a tenth of a second: at one socket, a thousand buyers would stand outside for a
    minute, with nobody to tell them that the shop is full.
    """
    return [listener, *(listener.dup() for _ in range(ACCEPTED_IN_A_TURN - 1))]


class PunctualProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, closing a connection whose headers take too long or have no end.

    Its timer runs from the first moment to the end of a request's headers, and again from the
    first byte after an answer; a connection that rests in between is closed by uvicorn. One that
    was refused is not read for a while; see `labshop.api.admission`.
    """

    receive_timeout_s: float
    _timer: asyncio.TimerHandle | None = None
    _header_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]  # None at first
            # Any byte ends the rest, also one that begins no request: an empty line, or what
            # is left of a body that was answered before its end.
            self._start_timer()
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_LIMIT_BYTES:
                self.transport.close()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        hold_off_s = self.cycle.scope["state"].get(HOLD_OFF)
        if hold_off_s and not self.transport.is_closing():
            self.flow.pause_reading()
            self.loop.call_later(hold_off_s, self._listen_again)

    def _listen_again(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.receive_timeout_s, self.transport.close)

    def _stop_timer(self) -> None:
        self._header_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def headers_within(receive_timeout_ms: int) -> type[PunctualProtocol]:
    """The protocol with its deadline."""

    class Punctual(PunctualProtocol):
        receive_timeout_s = receive_timeout_ms / 1_000

    return Punctual
