"""A wrong number at the gate is repaired by a delta, in mid-sale, and everything is sold once."""

import asyncio
from collections.abc import Collection

import pytest

from labshop.api.shop import Shop
from labshop.judge.books import Books, judge
from labshop.ops import repair
from labshop.ops.repair import Mismatch, Repairer, Report
from labshop.shop.errors import SoldOut, StockHeld, Unavailable
from labshop.storage.comparison import Finding, Kind, Place
from tests.conftest import eventually, users
from tests.ops.conftest import (
    FENCE,
    GATE,
    PRODUCT,
    STOCK,
    BusySale,
    busy_sale,
    comparison_of,
    epoch,
    order_of,
    plant,
    repairer_of,
)

BUYERS, EACH = 20, 6


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two looks follow each other soon."""
    monkeypatch.setattr(repair, "PAUSE_MS", 20)


async def repaired(sale: BusySale, repairer: Repairer) -> Report:
    """Look until a mismatch is repaired; a product that is just being bought is not judged."""
    async with asyncio.timeout(30):
        while True:
            report = await repairer.repair(FENCE)
            sale.looked()
            if report.mismatches:
                return report


async def sell_out(shop: Shop, buyers: list[int]) -> Books:
    """Twenty buyers want six units each, of a hundred, and ask until nothing is left or held."""

    async def buy(user_id: int) -> None:
        bought = 0
        while bought < EACH:
            try:
                await shop.strategies["v4"].buy(order_of(user_id, (PRODUCT, 1)))
            except SoldOut:
                return
            except StockHeld:
                await asyncio.sleep(0)
            else:
                bought += 1

    async with asyncio.TaskGroup() as tasks:
        for user_id in buyers:
            tasks.create_task(buy(user_id))
    left: dict[str, int | None] = {"ledger": (await shop.ledger.snapshot()).left[PRODUCT]}
    left["gate"] = await shop.inventory.unsold(PRODUCT)
    sold = await shop.ledger.sold(PRODUCT)
    return Books(stock=STOCK, wanted=BUYERS * EACH, sold=sold, left=left)


@pytest.mark.parametrize(
    ("kind", "units"), [("left", -7), ("left", 4), ("held", 5), ("held", -2), ("bought", 9)]
)
async def test_it_is_repaired_in_mid_sale_and_all_is_sold(
    quiet_shop: Shop, kind: Kind, units: int
) -> None:
    """Whichever number is made wrong under the buyers' feet: all units are sold, each once."""
    shop, repairer = quiet_shop, repairer_of(quiet_shop)
    buyers = await users(shop, BUYERS)
    place, built = Place(kind, buyers[0] if kind == "bought" else PRODUCT), await epoch(shop)
    async with busy_sale(shop, buyers) as sale:
        await plant(shop, place, units)
        with shop.events.listen() as heard:
            report = await repaired(sale, repairer)
            events = [heard.get_nowait() for _ in range(heard.qsize())]

    assert report.mismatches == (Mismatch(place, units, is_repaired=True),)
    assert judge(await sell_out(shop, buyers)).outcome == "VALID"
    assert await epoch(shop) == built
    [told] = [event.details for event in events if event.kind == "repair"]
    assert (told["place"], told["delta"], told["epoch"]) == (str(place), -units, built)
    counted = f'labshop_mismatches_repaired_total{{kind="{kind}"}} 1.0'
    assert counted in shop.metrics.render().decode()


async def test_control_without_repair_units_are_left_unsold(quiet_shop: Shop) -> None:
    """Control: nobody repairs, and seven units are never sold though buyers ask for them."""
    buyers = await users(quiet_shop, BUYERS)
    async with busy_sale(quiet_shop, buyers):
        await plant(quiet_shop, Place("left", PRODUCT), -7)

    books = await sell_out(quiet_shop, buyers)

    assert (books.sold, books.undersold) == (STOCK - 7, 7)


async def test_control_a_set_wipes_out_what_others_buy_in_between(quiet_shop: Shop) -> None:
    """Control: the right number at the moment of the look, written a purchase later, is wrong."""
    shop, repairer = quiet_shop, repairer_of(quiet_shop)
    first, second = await users(shop, 2)
    left = Place("left", PRODUCT)

    async def buys(user_id: int) -> None:
        order = order_of(user_id, (PRODUCT, 1))
        await shop.inventory.reserve(order)
        await shop.inventory.confirm(await shop.ledger.record(order, fence=0))

    await plant(shop, left, -3)
    right = (await shop.ledger.snapshot()).left[PRODUCT]
    await buys(first)
    await shop.node.command("HSET", GATE, str(left), right)
    assert (await comparison_of(shop).look()).drifts == {left: 1}

    await plant(shop, left, -1 - 3)
    seen = await comparison_of(shop).look()
    await buys(second)
    assert await repairer._add(seen, seen.drifts, FENCE) == "repaired"
    assert (await comparison_of(shop).look()).drifts == {}


async def test_a_dead_buyers_order_that_a_wipe_hid_is_told(quiet_shop: Shop) -> None:
    """Reserved, wiped, booked, and dead before the gate was told: it is told, nothing is added."""
    shop = quiet_shop
    [dead] = await users(shop, 1)
    order = order_of(dead, (PRODUCT, 4))
    await shop.inventory.reserve(order)
    await shop.node.command("FLUSHALL")
    await shop.inventory.gate.heat()
    await shop.ledger.record(order, fence=0)
    assert await shop.inventory.left(PRODUCT) == STOCK

    assert await repairer_of(shop).repair(FENCE) == Report()

    assert await shop.inventory.left(PRODUCT) == STOCK - 4
    assert (await comparison_of(shop).look()).untold == ()


async def test_many_orders_that_nobody_has_looked_at_are_caught_up_with(
    quiet_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More news than one look accounts for: it goes on until it has seen all, and then judges."""
    monkeypatch.setattr("labshop.storage.comparison.NEWS_LIMIT", 4)
    shop = quiet_shop
    for user_id in await users(shop, 11):
        order = order_of(user_id, (PRODUCT, 1))
        await shop.inventory.reserve(order)
        await shop.inventory.confirm(await shop.ledger.record(order, fence=0))
    place = Place("left", PRODUCT)
    await plant(shop, place, 2)
    assert (await comparison_of(shop).look()).is_behind

    report = await repairer_of(shop).repair(FENCE)

    assert report.mismatches == (Mismatch(place, 2, is_repaired=True),)


async def test_a_number_that_goes_on_changing_has_the_gate_built_anew(
    quiet_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong by something else at each look: no delta explains it, and the ledger decides."""
    shop, before = quiet_shop, await epoch(quiet_shop)
    comparison, place = comparison_of(shop), Place("left", PRODUCT)
    look = comparison.look

    async def under_attack(only: Collection[Place] = ()) -> Finding:
        await plant(shop, place, -1)
        return await look(only)

    monkeypatch.setattr(comparison, "look", under_attack)
    repairer = repairer_of(shop)
    repairer._comparison = comparison

    assert await repairer.repair(FENCE) == Report(is_rebuilt=True)

    assert await epoch(shop) != before
    assert await shop.inventory.left(PRODUCT) == STOCK
    assert b"labshop_gates_rebuilt_total 1.0" in shop.metrics.render()


async def test_a_gate_that_nobody_watched_for_long_is_built_anew(quiet_shop: Shop) -> None:
    """What it was told may be forgotten by then: its orders are remembered for ten minutes."""
    shop, repairer = quiet_shop, repairer_of(quiet_shop)
    await repairer.repair(FENCE)
    before = await epoch(shop)
    await shop.node.command("HINCRBY", GATE, "watched_ms", -repair.UNWATCHED_MS - 1_000)

    assert await repairer.repair(FENCE) == Report(is_rebuilt=True)

    assert await epoch(shop) != before


async def test_a_repair_of_another_gate_is_refused(quiet_shop: Shop) -> None:
    """Looked at, built anew, and only then added to: nothing is added to the new gate."""
    shop, repairer = quiet_shop, repairer_of(quiet_shop)
    await plant(shop, Place("left", PRODUCT), 5)
    seen = await comparison_of(shop).look()
    await shop.inventory.gate.rebuild()

    assert await repairer._add(seen, seen.drifts, FENCE) == "rebuilt"

    assert await shop.inventory.left(PRODUCT) == STOCK


async def test_a_look_alone_changes_nothing(quiet_shop: Shop) -> None:
    """To inspect names the mismatch and leaves it."""
    place = Place("held", PRODUCT)
    await plant(quiet_shop, place, 2)

    for _ in range(2):
        report = await repairer_of(quiet_shop).inspect()
        assert [str(it) for it in report.mismatches] == ["held:1: 2 too many, not repaired"]


async def test_a_repair_that_adds_units_is_told_to_whoever_says_sold_out(quiet_shop: Shop) -> None:
    """A process that believes a product sold out hears of the repair on the restock channel."""
    heard: list[str | None] = []
    quiet_shop.node.listen(f"labshop:restock:{GATE}", heard.append)
    await quiet_shop.node.command("PING")
    await plant(quiet_shop, Place("left", PRODUCT), -2)
    await repairer_of(quiet_shop).repair(FENCE)

    async def told() -> bool:
        return str(PRODUCT) in heard

    await eventually(told)


async def test_while_the_gate_is_being_built_it_is_not_judged(quiet_shop: Shop) -> None:
    """No gate, no verdict: the look is put off."""
    await quiet_shop.node.command("UNLINK", GATE)

    with pytest.raises(Unavailable, match="being built"):
        await repairer_of(quiet_shop).repair(FENCE)
