"""Two API processes, as on two hosts: one gate, one PostgreSQL, and each unit is sold once.

What more buyers meet, by the fastest stage and on either ledger: see tests/test_two_processes.py.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from labshop.api.shop import Shop
from labshop.judge.books import Books, judge
from labshop.lab.crowd import Answers, make_crowd, poisson
from labshop.lab.doors import sell_over_http
from labshop.settings import Settings
from labshop.shop.domain import Line
from labshop.stack.leash import Leash
from labshop.stack.nodes import ServerNode
from labshop.stack.postgres import PostgresServer
from labshop.stack.shop_api import ApiProcess
from tests.conftest import eventually
from tests.hosts import PRODUCT, count_sold, orders, stocked, tokens_of, two_hosts
from tests.ledgers import other_program

STOCK, BUYERS = 200, 400
ARRIVALS_PER_S = 150
"""Slow enough that no stage is sold out before it is hurt."""


@pytest.fixture
async def backstage(
    valkey: ServerNode, settings: Settings, frail_ledger_url: str
) -> AsyncIterator[Shop]:
    here = settings.model_copy(update={"database_url": frail_ledger_url})
    async with stocked(valkey, here, STOCK) as shop:
        yield shop


@pytest.fixture
def hosts(
    backstage: Shop, frail_ledger_url: str, leash: Leash, valkey: ServerNode, tmp_path: Path
) -> Iterator[list[ApiProcess]]:
    with two_hosts(leash, tmp_path, gate_url=valkey.url, ledger_url=frail_ledger_url) as started:
        yield started


async def press_buy(hosts: list[ApiProcess], tokens: dict[int, str], stage: str) -> Answers:
    """Everybody buys one unit, and asks again, at either host, if need be."""
    arrivals = poisson(ARRIVALS_PER_S)
    crowd = make_crowd(list(tokens), lambda _: (Line(PRODUCT, 1),), seed=1, arrivals=arrivals)
    patient = [replace(buyer, patience_s=60.0) for buyer in crowd]
    urls = [host.url for host in hosts]
    return Answers.of(await sell_over_http(patient, urls, tokens, stage=stage))


async def sold_at_least(shop: Shop, units: int) -> bool:
    with other_program(shop.settings.ledger_url()) as program:
        return count_sold(program) >= units


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


async def test_one_host_is_killed_in_mid_sale(backstage: Shop, hosts: list[ApiProcess]) -> None:
    """400 buyers at two hosts, one of which is killed: 200 units are sold, each of them once."""
    tokens = tokens_of(backstage, BUYERS)
    crowd = asyncio.create_task(press_buy(hosts, tokens, "v1"))
    await eventually(lambda: sold_at_least(backstage, 20))
    hosts[0].kill()
    assert not await sold_at_least(backstage, STOCK)

    await assert_books_fit(backstage, await crowd)


async def test_the_ledger_is_killed_in_mid_sale(
    backstage: Shop, frail_postgres: PostgresServer, hosts: list[ApiProcess]
) -> None:
    """PostgreSQL gets kill -9 under two hosts and comes back: every receipt true, all sold once."""
    tokens = tokens_of(backstage, BUYERS)
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
    for user_id, token in tokens_of(backstage, 4).items():
        answers = await press_buy(hosts, {user_id: token}, "v4")
        frail_postgres.kill()
        told |= set(answers.order_ids)
        await asyncio.to_thread(frail_postgres.restart)

        assert {order_id for order_id, _ in orders(backstage)} == told
    assert len(told) == 4
