"""The same request sent twice is booked once, however the two meet."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx2 as httpx
import pytest

from labshop.locks import Node, SingleLock
from labshop.settings import Settings
from labshop.stack.nodes import ServerNode
from labshop.storage.seed import LIMIT_PER_USER
from tests.api.conftest import ONE, PRODUCT, Buyer, Door, open_door, problem
from tests.conftest import connected, eventually

KEY = "7f9c2ba4-e88f-4279"
TWO = {"lines": [{"product_id": PRODUCT, "quantity": 2}]}


async def test_a_repeated_request_gets_the_same_answer(door: Door, buyer: Buyer) -> None:
    """Same key and same body: the same bytes, marked as a repetition, and one order."""
    first = await buyer.buy(key=KEY)
    second = await buyer.buy(key=KEY)

    assert (first.status_code, second.status_code) == (201, 201)
    assert second.content == first.content
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert await door.books() == (99, 99, 1)


async def test_the_same_order_in_other_words_is_the_same(door: Door, buyer: Buyer) -> None:
    """What counts is what is ordered: two lines of one unit repeat one line of two."""
    line = {"product_id": PRODUCT, "quantity": 1}
    first = await buyer.buy(TWO, key=KEY)
    second = await buyer.buy({"lines": [line, line]}, key=KEY)

    assert second.json() == first.json()
    assert await door.books() == (98, 98, 2)


async def test_another_order_under_the_same_key_is_refused(door: Door, buyer: Buyer) -> None:
    """Same key and another body: refused, and only the first is booked."""
    await buyer.buy(key=KEY)

    assert problem(await buyer.buy(TWO, key=KEY)) == (422, "Idempotency key reused")
    assert await door.books() == (99, 99, 1)


async def test_a_key_is_its_users_own(door: Door, buyer: Buyer) -> None:
    """Two users with the same key have an order each."""
    other = await door.buyer("bob")

    first = await buyer.buy(key=KEY)
    second = await other.buy(key=KEY)

    assert first.json()["order_id"] != second.json()["order_id"]
    assert "idempotent-replayed" not in second.headers
    assert await door.books() == (98, 98, 2)


async def test_a_refusal_does_not_use_the_key_up(door: Door, buyer: Buyer) -> None:
    """A key whose request was refused is free for the next try."""
    too_many = {"lines": [{"product_id": PRODUCT, "quantity": LIMIT_PER_USER + 1}]}
    assert problem(await buyer.buy(too_many, key=KEY)) == (409, "Limit reached")

    assert (await buyer.buy(key=KEY)).status_code == 201
    assert await door.books() == (99, 99, 1)


async def test_a_request_in_flight_is_not_sent_again(door: Door, buyer: Buyer) -> None:
    """While the first waits for its lock, the second is told to wait, and then gets its answer."""
    async with door.shop.lock(f"product:{PRODUCT}").hold(wait_ms=0):
        first = asyncio.create_task(buyer.buy(key=KEY))
        await eventually(lambda: waits(door, 2))
        meanwhile = await buyer.buy(key=KEY)
        other_key = asyncio.create_task(buyer.buy(key="another"))
        await eventually(lambda: waits(door, 3))

    assert problem(meanwhile) == (409, "Request in flight")
    assert meanwhile.headers["retry-after"] == "1"
    booked = await first
    assert booked.status_code == (await other_key).status_code == 201
    assert (await buyer.buy(key=KEY)).content == booked.content
    assert await door.books() == (98, 98, 2)


async def test_a_key_outlives_the_process(valkey: ServerNode, settings: Settings) -> None:
    """After a restart, and with a wiped gate, the same request gets the same answer."""
    async with connected(valkey), open_door(settings, valkey.url) as door:
        buyer = await door.buyer("ada")
        first = await buyer.buy(key=KEY)

    async with connected(valkey), open_door(settings, valkey.url) as door:
        second = await (await door.returning(buyer.id)).buy(key=KEY)
        assert second.content == first.content
        assert second.headers["idempotent-replayed"] == "true"
        assert await door.books() == (99, 99, 1)


@asynccontextmanager
async def two_doors(valkey: ServerNode, settings: Settings) -> AsyncIterator[tuple[Door, Door]]:
    """Two applications, with a process' memory each, on one ledger and one gate."""
    async with connected(valkey), AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_door(settings, valkey.url))
        yield first, await stack.enter_async_context(open_door(settings, valkey.url))


async def waits(door: Door, count: int) -> bool:
    """Whether so many tasks of an application hold the product's lock or wait for it."""
    return door.shop.node.turns.count(f"product:{PRODUCT}") == count


async def race(
    valkey: ServerNode, doors: tuple[Door, Door], body: object, key: str | None
) -> list[httpx.Response]:
    """One user's request to both applications, which are past every look at the key."""
    ada = await doors[0].buyer("ada")
    buyers = ada, await doors[1].returning(ada.id)
    node = Node(valkey.url, timeout_ms=2_000)
    async with SingleLock(node, f"product:{PRODUCT}", ttl_ms=60_000).hold(wait_ms=0):
        requests = [asyncio.create_task(buyer.buy(body, key=key)) for buyer in buyers]
        for door in doors:
            await eventually(lambda door=door: waits(door, 1))  # type: ignore[misc]  # bound early
    answers = await asyncio.gather(*requests)
    await node.close()
    return answers


@pytest.mark.parametrize("quantity", [1, LIMIT_PER_USER])
async def test_two_processes_book_one_order(
    valkey: ServerNode, settings: Settings, quantity: int
) -> None:
    """The same request in two processes at once is one order, also if it takes all one may buy."""
    body = {"lines": [{"product_id": PRODUCT, "quantity": quantity}]}
    async with two_doors(valkey, settings) as doors:
        answers = await race(valkey, doors, body, KEY)

        assert [answer.status_code for answer in answers] == [201, 201]
        assert answers[0].content == answers[1].content
        assert sum("idempotent-replayed" in answer.headers for answer in answers) == 1
        assert await doors[0].books() == (100 - quantity, 100 - quantity, quantity)


async def test_two_processes_refuse_another_order_under_the_same_key(
    valkey: ServerNode, settings: Settings
) -> None:
    """Of two different orders under one key, in two processes at once, one is refused."""
    async with two_doors(valkey, settings) as doors:
        ada = await doors[0].buyer("ada")
        twin = await doors[1].returning(ada.id)
        answers = await asyncio.gather(ada.buy(ONE, key=KEY), twin.buy(TWO, key=KEY))

        assert sorted(answer.status_code for answer in answers) == [201, 422]
        sold = sum(
            line["quantity"] for answer in answers for line in answer.json().get("lines", [])
        )
        assert await doors[0].books() == (100 - sold, 100 - sold, sold)


async def test_control_without_a_key_two_processes_book_two_orders(
    valkey: ServerNode, settings: Settings
) -> None:
    """Control: the same race without a key is two orders."""
    async with two_doors(valkey, settings) as doors:
        answers = await race(valkey, doors, ONE, None)

        assert [answer.status_code for answer in answers] == [201, 201]
        assert answers[0].json()["order_id"] != answers[1].json()["order_id"]
        assert await doors[0].books() == (98, 98, 2)
