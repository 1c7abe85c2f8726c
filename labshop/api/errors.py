"""One table from errors to answers, as RFC 9457 (`application/problem+json`) describes them.

A route never catches. An answer never repeats what was sent: not a password, and not a
number that JSON cannot carry.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from labshop.api.tokens import TokenRefused
from labshop.locks import LockError, LockTimeout
from labshop.shop import errors as shop
from labshop.storage.accounts import NameTaken

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"


class WrongCredentials(Exception):
    """The name or the password does not fit; which of them is not said."""


class TooManyTries(Exception):
    """Come back later.

    Args:
        retry_after_s: in how many seconds.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("Too many tries; wait a little.")
        self.retry_after_s = retry_after_s


class NoSuchBundle(Exception):
    def __init__(self, bundle_id: int) -> None:
        super().__init__(f"There is no bundle {bundle_id}.")
        self.bundle_id = bundle_id


class InFlight(Exception):
    """A request with the same idempotency key has not been answered yet."""


@dataclass(frozen=True)
class Answer:
    """How an error is told: status, title, and when to try again, in seconds."""

    status: int
    title: str
    retry_after_s: int | None = None

    @property
    def type(self) -> str:
        return f"/problems/{self.title.lower().replace(' ', '-')}"


TABLE: dict[type[Exception], Answer] = {
    TokenRefused: Answer(401, "Not signed in"),
    WrongCredentials: Answer(401, "Wrong credentials"),
    TooManyTries: Answer(429, "Too many tries"),
    InFlight: Answer(409, "Request in flight", retry_after_s=1),
    NameTaken: Answer(409, "Name taken"),
    NoSuchBundle: Answer(404, "No such bundle"),
    shop.SignedOut: Answer(401, "Not signed in"),
    shop.Refused: Answer(409, "Refused"),
    shop.BadOrder: Answer(422, "Bad order"),
    shop.NoSuchProduct: Answer(404, "No such product"),
    shop.NoSuchOrder: Answer(404, "No such order"),
    shop.SoldOut: Answer(409, "Sold out"),
    shop.StockHeld: Answer(503, "Stock held", retry_after_s=1),
    shop.LimitReached: Answer(409, "Limit reached"),
    shop.SaleClosed: Answer(409, "Sale closed"),
    shop.StaleFence: Answer(503, "Overtaken", retry_after_s=1),
    shop.KeyReused: Answer(422, "Idempotency key reused"),
    shop.Unavailable: Answer(503, "Unavailable", retry_after_s=1),
    shop.Overloaded: Answer(503, "Overloaded", retry_after_s=1),
    shop.Unknown: Answer(503, "Outcome unknown", retry_after_s=1),
    LockTimeout: Answer(503, "Contended", retry_after_s=1),
    LockError: Answer(503, "Unavailable", retry_after_s=1),
}


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    kind: str = "about:blank",
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> JSONResponse:
    """A problem as an answer."""
    body = {"type": kind, "title": title, "status": status, "detail": detail, **members}
    return JSONResponse(body, status, dict(headers or {}), media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make the app answer by the table."""
    for error in TABLE:
        app.add_exception_handler(error, _by_table)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _by_status)
    app.add_exception_handler(Exception, _defect)


async def _by_table(_request: Request, error: Exception) -> JSONResponse:
    return answer_to(error)


def answer_to(error: Exception) -> JSONResponse:
    """The answer of the table to an error that stands in it."""
    answer = next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)
    retry_after_s = getattr(error, "retry_after_s", answer.retry_after_s)
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    if answer.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    members = {"order_id": str(error.order_id)} if isinstance(error, shop.Unknown) else {}
    detail = str(error) or answer.title
    return problem(
        answer.status, answer.title, detail, kind=answer.type, headers=headers, **members
    )


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [
        # `loc` names fields; a field's own name can be hostile text, so it is made plain.
        {"at": ascii(".".join(map(str, fault["loc"])))[1:-1][:200], "reason": fault["type"]}
        for fault in error.errors()[:20]
    ]
    return problem(
        422,
        "Invalid request",
        "; ".join(f"{fault['at']}: {fault['reason']}" for fault in faults),
        kind="/problems/invalid-request",
        errors=faults,
    )


async def _by_status(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # The framework names the methods of one route only, where two share a path.
        methods = request.app.openapi()["paths"].get(request.scope["route"].path, {})
        headers["Allow"] = ", ".join(sorted(map(str.upper, methods))) or headers["Allow"]
    title = HTTPStatus(error.status_code).phrase
    return problem(error.status_code, title, error.detail, headers=headers)


async def _defect(_request: Request, error: Exception) -> JSONResponse:
    # The server logs the traceback; drawn with its local variables it would hold passwords.
    log.error("request.defect", error=type(error).__name__)
    return problem(500, "Internal Server Error", "This is a defect of the shop; it is logged.")
