"""Two API processes, as on two hosts: one gate, one PostgreSQL, and each unit is sold once."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from labshop.api.shop import Shop
from labshop.judge.books import Books, judge
from labshop.lab.crowd import Answers, make_crowd, poisson
from labshop.lab.doors import sell_over_http
from labshop.settings import Settings
from labshop.shop.domain import Line
from labshop.stack.leash import Leash
from labshop.stack.nodes import ServerNode
from labshop.stack.ports import LOOPBACK, free_port
from labshop.stack.postgres import PostgresServer
from labshop.stack.shop_api import ApiProcess
from tests.conftest import SECRET, eventually, open_shop, users
from tests.ledgers import other_program

PRODUCT = 1
STOCK, BUYERS = 200, 400
ARRIVALS_PER_S = 150
"""Slow enough that no stage is sold out before it is hurt."""


@pytest.fixture
async def backstage(
    valkey: ServerNode, settings: Settings, frail_ledger_url: str
) -> AsyncIterator[Shop]:
    """The stores as the hosts have them, seen from here; what is to be repaired, they repair."""
    here = settings.model_copy(update={"database_url": frail_ledger_url})
    async with open_shop(valkey, here) as shop:

        async def idle() -> None:
            return

        shop.reconciler.look = idle  # type: ignore[method-assign]
        await shop.ledger.adjust(PRODUCT, units=STOCK, actor="test")
        await shop.inventory.gate.rebuild()
        yield shop


@pytest.fixture
def hosts(
    backstage: Shop,
    frail_ledger_url: str,
    leash: Leash,
    valkey: ServerNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[list[ApiProcess]]:
    """Two API processes, each with a home of its own; secrets and stores are shared."""
    monkeypatch.setenv("LABSHOP_JWT_SECRET", SECRET)
    monkeypatch.setenv("LABSHOP_DATABASE_URL", frail_ledger_url)
    monkeypatch.setenv("LABSHOP_RESERVATION_TTL_MS", "1500")
    started = []
    for name in ("host-1", "host-2"):
        home = tmp_path / name
        home.mkdir()
        host = ApiProcess(leash, home, gate_url=valkey.url, host=LOOPBACK, port=free_port())
        started.append(host)
    try:
        for host in started:
            host.start()
        yield started
    finally:
        for host in started:
            host.end()


async def press_buy(hosts: list[ApiProcess], tokens: dict[int, str], stage: str) -> Answers:
    """Everybody buys one unit, and asks again, at either host, if need be."""
    arrivals = poisson(ARRIVALS_PER_S)
    crowd = make_crowd(list(tokens), lambda _: (Line(PRODUCT, 1),), seed=1, arrivals=arrivals)
    patient = [replace(buyer, patience_s=60.0) for buyer in crowd]
    urls = [host.url for host in hosts]
    return Answers.of(await sell_over_http(patient, urls, tokens, stage=stage))


async def tokens_of(shop: Shop, count: int) -> dict[int, str]:
    return {user_id: shop.tokens.issue(user_id) for user_id in await users(shop, count)}


def orders(shop: Shop) -> list[tuple[str, int]]:
    """Order and buyer of all that was sold, read by another program than the shop."""
    with other_program(shop.settings.ledger_url()) as program:
        rows = program.rows("SELECT id, user_id FROM purchase WHERE status = 'confirmed'")
    return [(str(UUID(str(order_id))), user_id) for order_id, user_id in rows]


async def sold_at_least(shop: Shop, units: int) -> bool:
    return len(orders(shop)) >= units


async def assert_books_fit(shop: Shop, answers: Answers) -> None:
    """Every unit is sold once, to somebody who was told so, and the gate agrees."""

    async def settled() -> bool:
        return await shop.inventory.unsold(PRODUCT) == 0

    assert answers.outcomes == {"booked": STOCK, "SoldOut": BUYERS - STOCK}
    sold = orders(shop)
    assert {order_id for order_id, _ in sold} == set(answers.order_ids)
    assert len({buyer for _, buyer in sold}) == len(sold) == STOCK
    await eventually(settled)
    left: dict[str, int | None] = {"ledger": (await shop.ledger.snapshot()).left[PRODUCT]}
    left["gate"] = await shop.inventory.unsold(PRODUCT)
    books = Books(stock=STOCK, wanted=BUYERS, sold=await shop.ledger.sold(PRODUCT), left=left)
    assert (books.oversold, books.undersold, judge(books).outcome) == (0, 0, "VALID")


@pytest.mark.parametrize("stage", ["v1", "v4"])
async def test_one_host_is_killed_in_mid_sale(
    backstage: Shop, hosts: list[ApiProcess], stage: str
) -> None:
    """400 buyers at two hosts, one of which is killed: 200 units are sold, each of them once."""
    tokens = await tokens_of(backstage, BUYERS)
    crowd = asyncio.create_task(press_buy(hosts, tokens, stage))
    await eventually(lambda: sold_at_least(backstage, 20))
    hosts[0].kill()
    assert not await sold_at_least(backstage, STOCK)

    await assert_books_fit(backstage, await crowd)


async def test_the_ledger_is_killed_in_mid_sale(
    backstage: Shop, frail_postgres: PostgresServer, hosts: list[ApiProcess]
) -> None:
    """PostgreSQL gets kill -9 under two hosts and comes back: every receipt true, all sold once."""
    tokens = await tokens_of(backstage, BUYERS)
    crowd = asyncio.create_task(press_buy(hosts, tokens, "v1"))
    await eventually(lambda: sold_at_least(backstage, 20))
    frail_postgres.kill()
    await asyncio.to_thread(frail_postgres.restart)
    assert not await sold_at_least(backstage, STOCK)

    await assert_books_fit(backstage, await crowd)


async def test_what_the_app_has_answered_outlives_a_kill_of_the_ledger(
    backstage: Shop, frail_postgres: PostgresServer, hosts: list[ApiProcess]
) -> None:
    """Four times: kill -9 of PostgreSQL right after an answer over HTTP; the order is there."""
    told: set[str] = set()
    for user_id, token in (await tokens_of(backstage, 4)).items():
        answers = await press_buy(hosts, {user_id: token}, "v4")
        frail_postgres.kill()
        told |= set(answers.order_ids)
        await asyncio.to_thread(frail_postgres.restart)

        assert {order_id for order_id, _ in orders(backstage)} == told
    assert len(told) == 4
