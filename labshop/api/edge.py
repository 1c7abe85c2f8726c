"""The fast lane to stage v4: the one request that matters in the hardest minute.

The problem: the framework spends more on a purchase than the purchase costs: it resolves
dependencies, builds requests and responses, and walks through its layers. The idea: a request that
is beyond doubt (our own token, a plain body, the exact path) is taken in right here, ahead of the
framework, with the same models and the same desk. Whatever is unusual in any way goes on to the
ordinary route of the same path, which documents it, and refuses it in detail.

It does not promise to be faster for a request that is refused. That a token was taken back, the
gate knows: it is asked in the same atomic step that reserves.
"""

import re

from pydantic import TypeAdapter, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labshop.api.desk import Desk
from labshop.api.errors import TABLE, answer_to
from labshop.api.limits import too_late, too_slow
from labshop.api.schemas import LinesIn, OrderOut
from labshop.api.shop import Shop
from labshop.api.tokens import Claims
from labshop.resilience import Patience
from labshop.shop.domain import Line, Order, Receipt
from labshop.shop.errors import BadOrder

PATH = "/v4/purchases"
KEY = re.compile(rb"[\x21-\x7e]{1,255}")
BODY = TypeAdapter(LinesIn)
EXPECTED = tuple(TABLE)


class Edge:
    """ASGI application that answers purchases of stage v4, and hands everything else on.

    Args:
        app: the rest of the application; it has limits of its own.
        shop: what sells.
        desk: where purchases are taken in.
        body_limit_bytes: a larger body is handed on, and refused there.
        receive_timeout_ms: how long the body may take.
        request_timeout_ms: how long the answer may take.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        shop: Shop,
        desk: Desk,
        body_limit_bytes: int,
        receive_timeout_ms: int,
        request_timeout_ms: int,
    ) -> None:
        self._app = app
        self._shop = shop
        self._desk = desk
        self._body_limit_bytes = body_limit_bytes
        self._receiving = Patience(receive_timeout_ms / 1_000)
        self._answering = Patience(request_timeout_ms / 1_000)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        order = None
        try:
            with self._receiving.limit() as limit:
                message = await receive()
            order = self._order(scope, message)
            if order is not None:
                with self._answering.limit() as limit:
                    receipt, replayed = await self._desk.buy("v4", order)
        except EXPECTED as error:
            await answer_to(error)(scope, receive, send)
        except TimeoutError:
            if not limit.has_expired:
                raise
            await (too_slow() if order is None else too_late())(scope, receive, send)
        else:
            if order is None:
                await self._app(scope, _again(message, receive), send)
            else:
                await _answer(receipt, replayed, send)

    def _order(self, scope: Scope, message: Message) -> Order | None:
        """The order of a request that is beyond doubt; None for any other."""
        if message["type"] != "http.request" or message.get("more_body") or scope["query_string"]:
            return None
        if len(message["body"]) > self._body_limit_bytes:
            return None
        shown = dict(scope["headers"])
        key = shown.get(b"idempotency-key")
        is_plain = (
            self._shop.opened.is_set()
            and len(shown) == len(scope["headers"])
            and shown.get(b"content-type") == b"application/json"
            and (key is None or KEY.fullmatch(key))
        )
        claims = self._claims(shown.get(b"authorization", b""))
        if claims is None or not is_plain:
            return None
        try:
            wanted = BODY.validate_json(message["body"])
            return Order.place(
                claims.user_id,
                [Line(line.product_id, line.quantity) for line in wanted.lines],
                idempotency_key=None if key is None else key.decode("ascii"),
                token_id=claims.token_id,
            )
        except (ValidationError, BadOrder):
            return None

    def _claims(self, authorization: bytes) -> Claims | None:
        scheme, _, token = authorization.partition(b" ")
        if scheme != b"Bearer":
            return None
        return self._shop.tokens.check_fast(token.decode("latin-1"))


async def _answer(receipt: Receipt, replayed: bool, send: Send) -> None:
    body = OrderOut.json_of(receipt)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if replayed:
        headers.append((b"idempotent-replayed", b"true"))
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _again(message: Message, receive: Receive) -> Receive:
    """What was received already, and then the rest."""
    waiting = [message]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again
