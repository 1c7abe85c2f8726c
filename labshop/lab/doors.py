"""The doors at which a crowd asks: a strategy in this process, or the API over HTTP.

A door makes one attempt, records it, and knows which ends of it are definite. It tells the crowd
whether the same request may be sent again.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx2 as httpx

from labshop.judge.history import History, Sale
from labshop.judge.recorder import Call, Recorder
from labshop.lab.crowd import PATIENCE_S, Buyer, press_buy
from labshop.locks import LockError
from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import (
    AlreadyBooked,
    PurchaseError,
    Refused,
    SoldOut,
    StaleFence,
    StockHeld,
    Unavailable,
    Unknown,
)
from labshop.stages.base import PurchaseStrategy

AT_ONCE = 250
"""Connections of one crowd; further buyers wait for one, as they do in a browser."""

COME_AGAIN = (StockHeld, StaleFence, Unavailable, Unknown, LockError)
"""Ends of an attempt after which the same request may be sent again."""


@dataclass
class StrategyDoor:
    """Buys by strategies in this process; several stand for several API processes.

    `answer_s` is how long one attempt may take: a strategy that hangs gave no answer.
    """

    strategies: list[PurchaseStrategy]
    answer_s: float = PATIENCE_S
    _turn: int = 0

    async def ask(self, buyer: Buyer, recorder: Recorder) -> bool:
        """Make one attempt. See `Door.ask`."""
        strategy = self.strategies[self._turn % len(self.strategies)]
        self._turn += 1
        order = Order.place(buyer.user_id, buyer.lines, idempotency_key=buyer.key)
        if len(order.lines) < len(buyer.lines):
            # A careless client names a product on two lines, and nobody merges them for it.
            order = replace(order, lines=buyer.lines)
        asked = {**_asked(buyer), "order": str(order.id)}
        with recorder.invoke(buyer.name, "buy", asked) as call:
            return await self._buy(strategy, order, call)

    async def _buy(self, strategy: PurchaseStrategy, order: Order, call: Call) -> bool:
        try:
            async with asyncio.timeout(self.answer_s):
                receipt = await strategy.buy(order)
        except AlreadyBooked as booked:
            call.ok(**_told(booked.receipt))
        except TimeoutError:
            call.unknown("NoAnswer")
        except (PurchaseError, LockError) as error:
            _tell_failure(error, call)
            return isinstance(error, COME_AGAIN)
        except Exception as defect:  # noqa: BLE001  # a strategy under test may raise anything
            call.unknown(type(defect).__name__)
        else:
            call.ok(**_told(receipt))
        return False


def _tell_failure(error: PurchaseError | LockError, call: Call) -> None:
    name = type(error).__name__
    if isinstance(error, SoldOut):
        call.fail(name, product=error.product_id)
    elif isinstance(error, Refused) or (isinstance(error, LockError) and error.definite):
        call.fail(name)
    else:
        call.unknown(name)


def _asked(buyer: Buyer) -> dict[str, Any]:
    units: dict[str, int] = {}
    for line in buyer.lines:
        product = str(line.product_id)
        units[product] = units.get(product, 0) + line.quantity
    return {"user": buyer.user_id, "key": buyer.key, "lines": units}


def _told(receipt: Receipt) -> dict[str, Any]:
    return {
        "order": str(receipt.order_id),
        "user": receipt.user_id,
        "fence": receipt.fence,
        "sequence": receipt.sequence,
    }


class HttpDoor:
    """Buys over HTTP, at one API process or at several in turn.

    Args:
        client: its own limits and deadline hold.
        urls: the addresses of the API processes.
        tokens: the bearer token of each user.
        stage: under which route.
    """

    def __init__(
        self, client: httpx.AsyncClient, urls: Sequence[str], tokens: Mapping[int, str], stage: str
    ) -> None:
        self._client = client
        self._urls = urls
        self._tokens = tokens
        self._stage = stage
        self._turn = 0

    async def ask(self, buyer: Buyer, recorder: Recorder) -> bool:
        """Make one attempt. See `Door.ask`."""
        url = f"{self._urls[self._turn % len(self._urls)]}/{self._stage}/purchases"
        self._turn += 1
        lines = [{"product_id": it.product_id, "quantity": it.quantity} for it in buyer.lines]
        token = self._tokens[buyer.user_id]
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": buyer.key}
        with recorder.invoke(buyer.name, "buy", _asked(buyer)) as call:
            try:
                response = await self._client.post(url, json={"lines": lines}, headers=headers)
            except httpx.TransportError as error:
                call.unknown(type(error).__name__)
                return True
            return _tell_response(response, buyer, call)


def _tell_response(response: httpx.Response, buyer: Buyer, call: Call) -> bool:
    content = response.json()
    if response.status_code == httpx.codes.CREATED:
        call.ok(order=content["order_id"], user=buyer.user_id)
        return False
    # "Sold out" over HTTP is SoldOut in a history.
    name = "".join(word.capitalize() for word in content["title"].split())
    if name == "OutcomeUnknown":
        call.unknown(name)
    else:
        call.fail(name)
    return "Retry-After" in response.headers


async def sell_over_http(
    crowd: Sequence[Buyer],
    urls: Sequence[str],
    tokens: Mapping[int, str],
    *,
    sale: Sale | None = None,
    stage: str = "v1",
    progress: Callable[[int, int], object] | None = None,
) -> History:
    """Let a crowd buy over HTTP.

    Args:
        crowd: the buyers.
        urls: the addresses of one or several API processes, which are asked in turn.
        tokens: a bearer token for each user.
        sale: what is on sale, as far as it is to be judged.
        stage: under which route.
        progress: told how many buyers have an answer, and of how many.
    """
    recorder = Recorder(sale or Sale())
    patience_s = max((buyer.patience_s for buyer in crowd), default=PATIENCE_S)
    limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
    async with httpx.AsyncClient(limits=limits, timeout=patience_s) as client:
        await press_buy(crowd, HttpDoor(client, urls, tokens, stage), recorder, progress=progress)
    return recorder.history()
