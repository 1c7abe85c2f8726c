"""What was bought: looking at it, cancelling it, and counting it."""

import asyncio
import re
from typing import Any
from uuid import UUID

import httpx2 as httpx
import pytest

from labshop.ops.metrics import LOCK_EVENTS, OUTCOMES
from labshop.storage.seed import LIMIT_PER_USER, PRODUCTS
from tests.api.conftest import Buyer, Door, problem


def some(quantity: int, product_id: int = 1) -> dict[str, Any]:
    return {"lines": [{"product_id": product_id, "quantity": quantity}]}


async def test_an_order_is_told_in_full(buyer: Buyer) -> None:
    """A purchase, the order by its id, and the order in the list are one and the same."""
    booked = await buyer.buy(some(2))
    order = booked.json()

    assert booked.status_code == 201
    assert order["lines"] == [{"product_id": 1, "quantity": 2}]
    assert (order["status"], order["price_minor"]) == ("confirmed", 2 * PRODUCTS[0][1])
    assert order["fence"] > 0
    assert (await buyer.http.get(f"/orders/{order['order_id']}")).json() == order
    assert (await buyer.http.get("/orders")).json() == [order]


async def test_lines_of_one_product_are_one_line(buyer: Buyer) -> None:
    """Two lines of one product are summed, and so is their price."""
    line = {"product_id": 1, "quantity": 2}
    order = (await buyer.buy({"lines": [line, line]})).json()

    assert order["lines"] == [{"product_id": 1, "quantity": 4}]
    assert order["price_minor"] == 4 * PRODUCTS[0][1]


async def test_orders_are_listed_in_pages_newest_first(buyer: Buyer) -> None:
    """Pages follow each other without a gap or a repetition, and end in an empty one."""
    ids = [(await buyer.buy(some(1, product))).json()["order_id"] for product in range(1, 6)]

    async def page(**query: int) -> list[str]:
        answer = await buyer.http.get("/orders", params=query)
        return [order["order_id"] for order in answer.json()]

    assert await page() == ids[::-1]
    assert await page(limit=2) == [ids[4], ids[3]]
    assert await page(limit=2, offset=2) == [ids[2], ids[1]]
    assert await page(limit=2, offset=4) == [ids[0]]
    assert await page(offset=5) == []


async def test_anothers_order_is_not_found(door: Door, buyer: Buyer) -> None:
    """Another user neither sees nor cancels an order, and learns not even that it exists."""
    order_id = (await buyer.buy()).json()["order_id"]
    other = await door.buyer("bob")

    for method in ("GET", "DELETE"):
        answer = await other.http.request(method, f"/orders/{order_id}")
        unknown = await other.http.request(method, f"/orders/{UUID(int=1)}")
        assert problem(answer) == (404, "No such order")
        assert answer.text.replace(order_id, "") == unknown.text.replace(str(UUID(int=1)), "")
    assert (await other.http.get("/orders")).json() == []
    assert (await buyer.http.get(f"/orders/{order_id}")).json()["status"] == "confirmed"
    assert await door.books() == (99, 99, 1)


async def test_an_order_is_cancelled_once(door: Door, buyer: Buyer) -> None:
    """Cancelling puts the units back, and cancelling again gives the same answer and no units."""
    order_id = (await buyer.buy(some(3))).json()["order_id"]
    assert await door.books() == (97, 97, 3)

    first = await buyer.http.delete(f"/orders/{order_id}")
    second = await buyer.http.delete(f"/orders/{order_id}")

    assert (first.status_code, first.json()["status"]) == (200, "cancelled")
    assert (second.status_code, second.json()) == (200, first.json())
    assert await door.books() == (100, 100, 0)


async def test_twenty_cancel_at_once(door: Door, buyer: Buyer) -> None:
    """Twenty requests that cancel one order at the same moment put one unit back."""
    order_id = (await buyer.buy()).json()["order_id"]

    answers = await asyncio.gather(*(buyer.http.delete(f"/orders/{order_id}") for _ in range(20)))

    assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {
        (200, "cancelled")
    }
    assert await door.books() == (100, 100, 0)


async def test_control_twenty_who_look_before_they_cancel(door: Door) -> None:
    """Control: twenty who read the status before any writes it put twenty units back."""
    redis, barrier = door.shop.node, asyncio.Barrier(20)
    await redis.command("MSET", "naive:status", "confirmed", "naive:stock", 99)

    async def cancel_unprotected() -> None:
        if await redis.command("GET", "naive:status") == "confirmed":
            await barrier.wait()
            await redis.command("SET", "naive:status", "cancelled")
            await redis.command("INCRBY", "naive:stock", 1)

    await asyncio.gather(*(cancel_unprotected() for _ in range(20)))

    assert await redis.command("GET", "naive:stock") == "119"


async def test_a_user_buys_no_more_than_the_limit(door: Door, buyer: Buyer) -> None:
    """The limit holds over all of a user's orders, and a cancelled order does not count."""
    first = await buyer.buy(some(LIMIT_PER_USER - 1))
    assert problem(await buyer.buy(some(2))) == (409, "Limit reached")
    assert (await buyer.buy(some(1, 2))).status_code == 201
    assert problem(await buyer.buy(some(1, 3))) == (409, "Limit reached")
    assert await door.books() == (91, 91, LIMIT_PER_USER)

    await buyer.http.delete(f"/orders/{first.json()['order_id']}")

    assert (await buyer.buy(some(LIMIT_PER_USER - 1))).status_code == 201


async def test_one_user_in_twenty_places_buys_no_more_than_the_limit(
    door: Door, buyer: Buyer
) -> None:
    """Twenty purchases of one user at the same moment are ten orders and ten refusals."""
    answers = await asyncio.gather(*(buyer.buy() for _ in range(20)))

    assert sorted(answer.status_code for answer in answers) == [201] * 10 + [409] * 10
    assert await door.books() == (90, 90, LIMIT_PER_USER)


@pytest.mark.parametrize(
    "body",
    [
        {"bundle_id": 1},
        {"lines": [{"product_id": 1, "quantity": 1}, {"product_id": 2, "quantity": 1}]},
    ],
)
async def test_the_first_stage_sells_one_product(
    door: Door, buyer: Buyer, body: dict[str, Any]
) -> None:
    """A bundle, or two products, are refused by v1 in words that say where to buy them."""
    refused = await buyer.buy(body)

    assert problem(refused) == (422, "Bad order")
    assert "/v2/purchases" in refused.json()["detail"]
    assert await door.books() == (100, 100, 0)


async def test_the_catalogue_and_the_stock_agree(client: httpx.AsyncClient, buyer: Buyer) -> None:
    """Ten products and three bundles are listed; a purchase shows in both views of the stock."""
    await buyer.buy(some(4))

    products = (await client.get("/products")).json()
    bundles = (await client.get("/bundles")).json()
    stock = (await client.get("/products/1/stock")).json()

    assert [product["stock_left"] for product in products] == [96] + [100] * 9
    assert (await client.get("/products/1")).json() == products[0]
    assert [bundle["name"] for bundle in bundles] == ["Gaming night", "Slow morning", "On the road"]
    assert stock.pop("age_ms") > 0
    assert stock == {"product_id": 1, "left": 96, "source": "gate"}


async def test_the_yardstick_and_the_health_say_little(client: httpx.AsyncClient) -> None:
    """The empty route answers null, the process is alive, and the shop is ready."""
    assert (await client.get("/null")).json() is None
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).json()["status"] == "ready"


async def counted(client: httpx.AsyncClient) -> dict[str, float]:
    """All series by name and labels."""
    answer = await client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = re.findall(r"^(labshop\S+) (\S+)$", answer.text, re.MULTILINE)
    return {series: float(value) for series, value in lines}


async def test_every_counter_is_there_from_the_start(client: httpx.AsyncClient) -> None:
    """No series appears with its first event: each is there, at zero."""
    series = await counted(client)

    for outcome in OUTCOMES:
        assert series[f'labshop_purchases_total{{outcome="{outcome}",stage="v1"}}'] == 0
    for kind in LOCK_EVENTS:
        assert series[f'labshop_lock_events_total{{kind="{kind}"}}'] == 0
    assert series["labshop_locks_held"] == 0
    assert series["labshop_lock_wait_seconds_count"] == 0
    assert series["labshop_lock_hold_seconds_count"] == 0


async def test_a_purchase_is_counted(client: httpx.AsyncClient, buyer: Buyer) -> None:
    """A booked, a repeated and a refused purchase are counted apart, and so are their locks."""
    await buyer.buy(key="one")
    await buyer.buy(key="one")
    await buyer.buy(some(LIMIT_PER_USER))
    series = await counted(client)

    purchases = {
        outcome: series[f'labshop_purchases_total{{outcome="{outcome}",stage="v1"}}']
        for outcome in OUTCOMES
    }
    assert purchases == {"booked": 1, "replayed": 1, "refused": 1, "unknown": 0}
    assert series['labshop_lock_events_total{kind="acquired"}'] == 2
    assert series['labshop_lock_events_total{kind="released"}'] == 2
    assert series["labshop_lock_wait_seconds_count"] == 2
    assert series["labshop_lock_hold_seconds_count"] == 2
    assert series["labshop_locks_held"] == 0
