"""The server process: uvicorn, with the deadline that it lacks.

It waits for the rest of a request's headers for ever. Whoever sends them drop by drop
holds a connection, and a clean stop with it; here the connection is closed instead.
"""

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from labshop.api.app import create_app
from labshop.errors import SetupError
from labshop.settings import Settings

BACKLOG = 2_048
STOP_S = 5


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
    uvicorn.Server(config).run()


def headers_within(receive_timeout_ms: int) -> type[asyncio.Protocol]:
    """The protocol of uvicorn, closing a connection whose headers take longer than that."""

    class Punctual(HttpToolsProtocol):
        """Has a timer from the first byte of a request to the end of its headers."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timer = self.loop.call_later(receive_timeout_ms / 1_000, transport.close)

        def on_message_begin(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(receive_timeout_ms / 1_000, self.transport.close)
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._stop_timer()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Punctual
