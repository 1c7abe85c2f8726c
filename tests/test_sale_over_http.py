"""Whole sales over HTTP, against the API as a process of its own, which is killed in mid-sale."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from labshop.api.shop import Shop, build_shop, running
from labshop.judge.books import Books, judge
from labshop.lab.crowd import Answers, make_crowd
from labshop.lab.doors import sell_over_http
from labshop.settings import Settings
from labshop.shop.domain import Line
from labshop.stack.leash import Leash
from labshop.stack.nodes import ServerNode
from labshop.stack.ports import LOOPBACK, free_port
from labshop.stack.shop_api import ApiProcess
from tests.conftest import SETTLE_S, connected, eventually, users

PRODUCT = 3
STOCK = 100
BOUGHT = {"booked": STOCK}


@pytest.fixture
async def backstage(valkey: ServerNode, settings: Settings) -> AsyncIterator[Shop]:
    """The stores of the shop that the API process serves, seen from here.

    Its reconciler is idle: what has to be repaired, the API process repairs.
    """
    async with connected(valkey):
        pass
    shop = build_shop(settings, gate_url=valkey.url)

    async def idle() -> None:
        return

    shop.reconciler.look = idle  # type: ignore[method-assign]
    async with running(shop):
        async with asyncio.timeout(SETTLE_S):
            await shop.opened.wait()
        yield shop


@pytest.fixture
def api(
    backstage: Shop, leash: Leash, valkey: ServerNode, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ApiProcess]:
    """The API process, at work."""
    secret = backstage.settings.jwt_secret
    assert secret is not None
    monkeypatch.setenv("LABSHOP_JWT_SECRET", secret.get_secret_value())
    process = ApiProcess(
        leash, backstage.settings.home, gate_url=valkey.url, host=LOOPBACK, port=free_port()
    )
    process.start()
    yield process
    process.end()


async def tokens(shop: Shop, count: int) -> dict[int, str]:
    return {user_id: shop.tokens.issue(user_id) for user_id in await users(shop, count)}


async def press_buy(url: str, tokens: dict[int, str]) -> Answers:
    """Every holder of a token buys one unit at the same moment."""
    crowd = make_crowd(list(tokens), lambda _: (Line(PRODUCT, 1),), seed=1)
    patient = [replace(buyer, patience_s=60.0) for buyer in crowd]
    return Answers.of(await sell_over_http(patient, [url], tokens))


async def sold(shop: Shop) -> int:
    return await shop.ledger.sold(PRODUCT)


async def assert_books_fit(shop: Shop, wanted: int) -> None:
    """At the end, once abandoned reservations are settled: everything sold, nothing oversold."""

    async def settled() -> bool:
        return await shop.inventory.unsold(PRODUCT) == 0

    with contextlib.suppress(TimeoutError):
        await eventually(settled)
    left: dict[str, int | None] = {
        "ledger": (await shop.ledger.snapshot()).left[PRODUCT],
        "gate": await shop.inventory.unsold(PRODUCT),
    }
    books = Books(stock=STOCK, wanted=wanted, sold=await sold(shop), left=left)
    assert (books.sold, books.left) == (STOCK, {"ledger": 0, "gate": 0}), judge(books)
    assert (books.oversold, books.undersold, judge(books).outcome) == (0, 0, "VALID")


def orders_on_disk(home: Path) -> set[str]:
    """The ids of all orders, read from the file by another program than the shop."""
    with closing(sqlite3.connect(home / "ledger.db")) as reader:
        rows = reader.execute("SELECT id FROM purchase WHERE status = 'confirmed'").fetchall()
    return {str(UUID(row[0])) for row in rows}


async def test_hundred_buy_one_of_hundred(backstage: Shop, api: ApiProcess) -> None:
    """100 tasks over HTTP buy 1 of 100: exactly 100 orders in SQL, 0 left in Redis."""
    answers = await press_buy(api.url, await tokens(backstage, 100))

    assert answers.outcomes == BOUGHT
    assert orders_on_disk(backstage.settings.home) == set(answers.order_ids)
    await assert_books_fit(backstage, wanted=100)


async def test_thousand_want_hundred(backstage: Shop, api: ApiProcess) -> None:
    """1000 users press at once: 100 hold a receipt, 900 are told that it is sold out."""
    answers = await press_buy(api.url, await tokens(backstage, 1_000))

    assert answers.outcomes == BOUGHT | {"SoldOut": 900}
    assert orders_on_disk(backstage.settings.home) == set(answers.order_ids)
    await assert_books_fit(backstage, wanted=1_000)


@asynccontextmanager
async def selling(
    shop: Shop, api: ApiProcess, buyers: int, *, until: int = 20
) -> AsyncIterator["asyncio.Task[set[str]]"]:
    """A crowd at work, for a body that begins once some units are sold."""
    everybody = await tokens(shop, buyers)

    async def crowd() -> set[str]:
        answers = await press_buy(api.url, everybody)
        assert answers.outcomes["booked"] == len(set(answers.order_ids))
        return set(answers.order_ids)

    async def under_way() -> bool:
        return await sold(shop) >= until

    task = asyncio.create_task(crowd())
    await eventually(under_way)
    yield task


async def test_killed_and_restarted_in_mid_sale(backstage: Shop, api: ApiProcess) -> None:
    """Kill -9 of the API in mid-sale and a restart: every unit sold once, every receipt true."""
    async with selling(backstage, api, 300) as crowd:
        api.kill()
        assert await sold(backstage) < STOCK
        await asyncio.to_thread(api.start)
        receipts = await crowd

    assert orders_on_disk(backstage.settings.home) == receipts
    await assert_books_fit(backstage, wanted=300)


async def test_redis_emptied_in_mid_sale(backstage: Shop, api: ApiProcess) -> None:
    """FLUSHALL in mid-sale, twice: every unit sold once, every receipt true."""
    async with selling(backstage, api, 300) as crowd:
        await backstage.node.command("FLUSHALL")
        assert await sold(backstage) < STOCK
        await eventually(lambda: at_least(backstage, 50))
        await backstage.node.command("FLUSHALL")
        receipts = await crowd

    assert orders_on_disk(backstage.settings.home) == receipts
    await assert_books_fit(backstage, wanted=300)


async def at_least(shop: Shop, units: int) -> bool:
    return await sold(shop) >= units


async def test_an_acknowledged_order_survives_kill_9(backstage: Shop, api: ApiProcess) -> None:
    """Fifty orders, each followed by kill -9 as soon as its receipt is there: all fifty in SQL."""
    receipts: set[str] = set()
    for user_id, token in (await tokens(backstage, 50)).items():
        answers = await press_buy(api.url, {user_id: token})
        api.kill()
        receipts |= set(answers.order_ids)
        assert set(answers.order_ids) <= orders_on_disk(backstage.settings.home)
        await asyncio.to_thread(api.start)

    assert len(receipts) == 50
    assert orders_on_disk(backstage.settings.home) == receipts
