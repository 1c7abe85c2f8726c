"""A crowd of buyers over HTTP, who behave as real ones do.

Each presses *buy* once, under an idempotency key. Told to wait, or cut off in the middle, a
buyer sends the same request again until there is a definite answer: bought, or refused. So
what the crowd was told can be held against what the ledger says.
"""

import asyncio
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import httpx2 as httpx

RETRY_S = 0.05
AT_ONCE = 250
"""Connections of one crowd; further buyers wait for one, as they do in a browser."""


@dataclass(frozen=True)
class Answers:
    """What the crowd was told.

    `outcomes` counts the definite answers, `order_ids` names the booked orders, `asked_again`
    is how many requests had to be sent once more.
    """

    outcomes: Counter[str]
    order_ids: tuple[str, ...]
    asked_again: int


async def press_buy(
    url: str, tokens: Sequence[str], product_id: int, *, stage: str = "v1", within_s: float = 60
) -> Answers:
    """Let every holder of a token buy one unit at the same moment.

    Args:
        url: the API's address.
        tokens: one bearer token a buyer.
        product_id: what they buy.
        stage: under which route.
        within_s: by when each must have a definite answer, in seconds.

    Raises:
        TimeoutError: a buyer got none.
    """
    limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
    body = {"lines": [{"product_id": product_id, "quantity": 1}]}
    asked_again = 0
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=within_s) as client:

        async def buy(token: str) -> tuple[str, str]:
            nonlocal asked_again
            headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid.uuid4())}
            while True:
                answer = await _try(client, f"/{stage}/purchases", body, headers)
                if answer is not None:
                    return answer
                asked_again += 1
                await asyncio.sleep(RETRY_S)

        async with asyncio.timeout(within_s):
            answers = await asyncio.gather(*map(buy, tokens))
    outcomes = Counter(outcome for outcome, _ in answers)
    order_ids = tuple(order_id for _, order_id in answers if order_id)
    return Answers(outcomes, order_ids, asked_again)


async def _try(
    client: httpx.AsyncClient, path: str, body: object, headers: dict[str, str]
) -> tuple[str, str] | None:
    """One request: the outcome and the order's id, or None when it has to be asked again."""
    try:
        response = await client.post(path, json=body, headers=headers)
    except httpx.TransportError:
        return None
    content = response.json()
    if response.status_code == httpx.codes.CREATED:
        return "booked", content["order_id"]
    if "Retry-After" in response.headers or content["title"] == "Request in flight":
        return None
    return content["title"], ""
