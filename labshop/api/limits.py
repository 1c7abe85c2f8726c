"""How large a request may be, and how long it may take; in pure ASGI, ahead of everything.

A body is counted as it arrives, for its Content-Length may lie; who sends it drop by drop is
cut off. The stream of events is the one answer that has no end, and no deadline.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labshop.api.admission import Door
from labshop.api.errors import problem

ENDLESS = "/events"
NO_DOOR = nullcontext()


class _TooLarge(Exception):
    pass


class _TooSlow(Exception):
    pass


class RequestLimits:
    """Middleware that bounds the body in bytes and the request in time.

    Args:
        app: what it stands in front of.
        body_limit_bytes: of a request.
        receive_timeout_ms: how long a body may take.
        request_timeout_ms: how long body and answer may take together.
        doors: by path; a request is counted at its door from its body on.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        body_limit_bytes: int,
        receive_timeout_ms: int,
        request_timeout_ms: int,
        doors: Mapping[str, Door],
    ) -> None:
        self._app = app
        self._doors = doors
        self._body_limit_bytes = body_limit_bytes
        self._receive_timeout_s = receive_timeout_ms / 1_000
        self._request_timeout_s = request_timeout_ms / 1_000

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == ENDLESS:
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            async with asyncio.timeout(self._request_timeout_s) as deadline:
                whole = await self._whole_body(receive)
                with self._doors.get(scope["path"], NO_DOOR):
                    await self._app(scope, whole, answer)
        except _TooLarge:
            text = f"A request has at most {self._body_limit_bytes} bytes."
            await answer.instead(scope, receive, _closing(413, "Content Too Large", text))
        except _TooSlow:
            await answer.instead(scope, receive, too_slow())
        except TimeoutError:
            if not deadline.expired():
                raise
            await answer.instead(scope, receive, too_late())

    async def _whole_body(self, receive: Receive) -> Receive:
        """Read the body within its limits; returns what hands it on."""
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._receive_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return _replay([message], receive)
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    if size > self._body_limit_bytes:
                        raise _TooLarge
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise _TooSlow from None
        whole: Message = {"type": "http.request", "body": b"".join(chunks), "more_body": False}
        return _replay([whole], receive)


class _Answer:
    """Passes an answer on, and knows whether it has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False

    async def __call__(self, message: Message) -> None:
        self._begun = True
        await self._send(message)

    async def instead(self, scope: Scope, receive: Receive, response: Response) -> None:
        """Answer with a problem, and close the connection, unless an answer has begun."""
        if not self._begun:
            await response(scope, receive, self._send)


def too_slow() -> Response:
    """The answer to a body that did not come in time."""
    return _closing(408, "Request Timeout", "The body came too slowly.", retry_after_s=1)


def too_late() -> Response:
    """The answer to a request that was not answered in time."""
    text = "No answer in time; repeat the request with the same Idempotency-Key."
    return _closing(503, "Service Unavailable", text, retry_after_s=1)


def _closing(status: int, title: str, detail: str, *, retry_after_s: int | None = None) -> Response:
    headers = {"Connection": "close"}
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    return problem(status, title, detail, headers=headers)


def _replay(
    messages: list[Message], receive: Callable[[], Awaitable[Any]]
) -> Callable[[], Awaitable[Any]]:
    async def replayed() -> Any:
        return messages.pop(0) if messages else await receive()

    return replayed
