"""Redis or SQL go away and come back: who asks is told, and nothing is half-sold."""

import asyncio
import shutil
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import httpx2 as httpx
import pytest

from labshop.settings import Settings
from labshop.shop.domain import Line, Order, Receipt
from labshop.shop.errors import Unavailable
from labshop.stack.nodes import ServerNode
from tests.api.conftest import PRODUCT, Buyer, Door, open_door, problem
from tests.conftest import SECRET, connected, eventually

SOLD_BEFORE, BUYERS = 10, 40
DEADLINE_S = 3.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Short deadlines: an outage is waited out by these tests."""
    return Settings(
        home=tmp_path / "home",
        jwt_secret=SECRET,  # type: ignore[arg-type]  # pydantic wraps it
        node_timeout_ms=200,
        database_timeout_ms=400,
        reservation_ttl_ms=500,
        # Who insists here asks as no person could.
        user_rate_per_s=1_000_000,
        user_burst=1_000_000,
    )


async def test_redis_away_at_start(frail: ServerNode, settings: Settings) -> None:
    """Without a gate the shop serves, refuses to sell and says why; it heals by itself."""
    frail.start()
    frail.kill()
    async with open_door(settings, frail.url, stocked=False) as door:
        await eventually(lambda: stocked(door))
        buyer = await door.buyer("ada")
        ready = await buyer.http.get("/readyz")
        stock = (await buyer.http.get("/products/1/stock")).json()

        assert (await buyer.http.get("/healthz")).status_code == 200
        assert problem(ready) == (503, "Unavailable")
        assert ready.json()["detail"].startswith("The gate cannot be reached: ")
        assert stock.pop("age_ms") > 0
        assert stock == {"product_id": PRODUCT, "left": 100, "source": "ledger"}
        await refused_for_now(buyer)
        assert (await buyer.http.get("/orders")).json() == []

        frail.restart()
        await eventually(lambda: is_ready(door))
        assert (await buyer.buy()).status_code == 201
        assert await door.books() == (99, 99, 1)


@pytest.mark.parametrize("forgets", [False, True])
async def test_redis_is_killed_in_mid_sale(
    frail: ServerNode, settings: Settings, tmp_path: Path, *, forgets: bool
) -> None:
    """A kill in mid-sale loses no acknowledged order and no unit, also if the memory is gone."""
    frail.start()
    async with open_door(settings, frail.url) as door:
        buyers = [await door.buyer(f"buyer-{number}") for number in range(BUYERS)]
        sale = [asyncio.create_task(insist(buyer)) for buyer in buyers]
        await eventually(lambda: sold_at_least(door, SOLD_BEFORE))
        frail.kill()
        assert not await sold_at_least(door, BUYERS)
        if forgets:
            shutil.rmtree(tmp_path / "frail" / "appendonlydir")
        await asyncio.to_thread(frail.restart)
        answers = await asyncio.gather(*sale)

        # Who got no answer asks again under the same key: in the end everybody has one order.
        assert Counter(answer.status_code for answer in answers) == {201: BUYERS}
        assert {answer.json()["order_id"] for answer in answers} == await booked(buyers)
        await eventually(lambda: balanced(door, sold=BUYERS))


async def test_redis_frozen_before_a_purchase(frail: ServerNode, settings: Settings) -> None:
    """A frozen gate is a 503 in time, and when it thaws no unit is lost."""
    frail.start()
    async with open_door(settings, frail.url) as door:
        buyer = await door.buyer("ada")
        frail.freeze()
        await refused_for_now(buyer)
        assert problem(await buyer.http.get("/readyz")) == (503, "Unavailable")
        frail.thaw()

        await eventually(lambda: is_ready(door))
        await eventually(lambda: balanced(door, sold=0))
        assert (await buyer.buy()).status_code == 201
        await eventually(lambda: balanced(door, sold=1))


async def test_redis_frozen_before_the_reservation(
    frail: ServerNode, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen between lock and reservation: a 503, and what was reserved late is given back."""
    frail.start()
    async with open_door(settings, frail.url) as door:
        buyer = await door.buyer("ada")
        reserve = door.shop.inventory.reserve

        async def freeze_and_reserve(order: Order) -> None:
            frail.freeze()
            await reserve(order)

        with monkeypatch.context() as patch:
            patch.setattr(door.shop.inventory, "reserve", freeze_and_reserve)
            await refused_for_now(buyer)
        assert (await buyer.http.get("/orders")).json() == []
        frail.thaw()

        await eventually(lambda: balanced(door, sold=0))
        assert (await buyer.buy()).status_code == 201


async def test_redis_frozen_before_the_ledger_writes(
    frail: ServerNode, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen once the units are reserved: the order is booked and answered, and the gate learns."""
    frail.start()
    async with open_door(settings, frail.url) as door:
        buyer = await door.buyer("ada")
        record = door.shop.ledger.record

        async def freeze_and_record(order: Order, *, fence: int) -> Receipt:
            frail.freeze()
            return await record(order, fence=fence)

        with monkeypatch.context() as patch:
            patch.setattr(door.shop.ledger, "record", freeze_and_record)
            answer = await in_time(buyer)
        assert answer.status_code == 201
        assert [answer.json()] == (await buyer.http.get("/orders")).json()
        frail.thaw()

        await eventually(lambda: balanced(door, sold=1))


async def test_sql_is_held_by_another_program(valkey: ServerNode, settings: Settings) -> None:
    """While another program holds the database: a 503 in time, and later exactly what is listed."""
    async with connected(valkey), open_door(settings, valkey.url) as door:
        buyers = [await door.buyer(f"buyer-{number}") for number in range(5)]
        with closing(sqlite3.connect(settings.home / "ledger.db")) as other:
            other.execute("BEGIN EXCLUSIVE")
            await asyncio.gather(*(refused_for_now(buyer) for buyer in buyers))
            assert (await buyers[0].http.get("/products")).status_code == 200
            other.rollback()

        await eventually(lambda: balanced(door, sold=0))
        assert await booked(buyers) == set()
        # For a moment more the ledger's breaker may be open.
        assert (await insist(buyers[0])).status_code == 201


async def test_sql_away_at_start(valkey: ServerNode, settings: Settings, tmp_path: Path) -> None:
    """Without a ledger the shop serves, says why it does not sell, and heals by itself."""
    folder = tmp_path / "not-mounted-yet"
    url = f"sqlite:///{folder / 'ledger.db'}"
    settings = settings.model_copy(update={"database_url": url})
    async with connected(valkey), open_door(settings, valkey.url, stocked=False) as door:
        client = await door.client(door.shop.tokens.issue(1))
        credentials = {"name": "ada", "password": "correct horse"}
        assert (await client.get("/healthz")).status_code == 200
        for answer in (
            await client.get("/readyz"),
            await client.get("/products"),
            await client.get("/orders"),
            await client.post("/auth/signup", json=credentials),
            await client.post("/auth/login", json=credentials),
        ):
            assert problem(answer) == (503, "Unavailable")
            assert answer.json()["detail"].startswith("The ledger cannot be reached: ")
        await refused_for_now(Buyer(1, client))

        folder.mkdir()
        await eventually(lambda: is_ready(door))
        await eventually(lambda: balanced(door, sold=0))
        assert (await (await door.buyer("ada")).buy()).status_code == 201
        assert await door.books() == (99, 99, 1)


async def test_an_order_that_cannot_be_written_harms_no_other(door: Door) -> None:
    """In a group that is written together, the order of a user who is gone is refused alone."""
    good = await door.buyer("ada")
    orders = [Order.place(user_id, [Line(PRODUCT, 1)]) for user_id in (good.id, 999, good.id)]

    outcomes = await asyncio.gather(
        *(door.shop.ledger.record(order, fence=0) for order in orders), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes] == [Receipt, Unavailable, Receipt]
    assert await booked([good]) == {str(orders[0].id), str(orders[2].id)}
    assert (await door.shop.ledger.snapshot()).left[PRODUCT] == 98


async def in_time(buyer: Buyer) -> httpx.Response:
    since_s = time.monotonic()
    answer = await buyer.buy()
    assert time.monotonic() - since_s < DEADLINE_S
    return answer


async def refused_for_now(buyer: Buyer) -> None:
    """A purchase is refused for certain, in time, and told when to come back."""
    answer = await in_time(buyer)
    # Overloaded: a breaker has opened, and a store is left in peace.
    assert problem(answer) in {(503, "Unavailable"), (503, "Overloaded")}
    assert answer.headers["retry-after"] == "1"


async def insist(buyer: Buyer) -> httpx.Response:
    """Buy under one key, as often as it takes."""
    while (answer := await buyer.buy(key="mine")).status_code == 503:
        await asyncio.sleep(0.05)
    return answer


async def booked(buyers: list[Buyer]) -> set[str]:
    answers = [await buyer.http.get("/orders") for buyer in buyers]
    return {order["order_id"] for answer in answers for order in answer.json()}


async def stocked(door: Door) -> bool:
    return door.shop.stocked


async def is_ready(door: Door) -> bool:
    return (await (await door.client()).get("/readyz")).status_code == 200


async def sold_at_least(door: Door, units: int) -> bool:
    return sum((await door.shop.ledger.snapshot()).bought.values()) >= units


async def balanced(door: Door, *, sold: int) -> bool:
    """Whether gate and ledger agree on what is left, and that it is the rest of what was sold."""
    try:
        return await door.books() == (100 - sold, 100 - sold, sold)
    except Unavailable:
        return False
