"""Gate and ledger are compared in mid-sale: what is on its way is no mismatch, all else is one."""

from collections import Counter
from itertools import combinations_with_replacement

import pytest

from labshop.api.shop import Shop
from labshop.shop.domain import Receipt
from labshop.storage import comparison
from labshop.storage.comparison import Finding, Place, Reading, account
from labshop.storage.movements import News, Stock
from tests.conftest import either_ledger, users
from tests.ops.conftest import PRODUCT, busy_sale, comparison_of, epoch, order_of, plant

BUYERS = 30
LOOKS = 60


class Life:
    """One order of two products, step by step; the gate is built anew wherever a test says so."""

    STEPS = ("reserve", "book", "confirm", "cancel", "put_back")

    def __init__(self, shop: Shop, user_id: int) -> None:
        self._shop = shop
        self._order = order_of(user_id, (1, 2), (2, 1))
        self._receipt: Receipt | None = None
        self._cancelled = 0

    async def step(self, name: str) -> None:
        shop, order = self._shop, self._order
        match name:
            case "reserve":
                await shop.inventory.reserve(order)
            case "book":
                self._receipt = await shop.ledger.record(order, fence=0)
            case "confirm":
                assert self._receipt
                await shop.inventory.confirm(self._receipt)
            case "cancel":
                self._receipt, self._cancelled = await shop.ledger.cancel(
                    order.id, user_id=order.user_id, actor="buyer"
                )
            case "put_back":
                assert self._receipt
                await shop.inventory.put_back(self._receipt, self._cancelled)
            case "rebuild":
                await shop.inventory.gate.rebuild()
            case _:
                raise AssertionError(name)


@either_ledger
async def test_at_no_step_of_an_order_there_is_a_mismatch(quiet_shop: Shop) -> None:
    """Reserved, booked, told, cancelled, put back, and the gate built anew at any two moments."""
    shop = quiet_shop
    places = list(combinations_with_replacement(range(len(Life.STEPS) + 1), 2))
    looks = comparison_of(shop)
    for user_id, rebuilt_at in zip(await users(shop, len(places)), places, strict=True):
        life = Life(shop, user_id)
        for number, step in enumerate(Life.STEPS):
            if number in rebuilt_at:
                await life.step("rebuild")
            await life.step(step)

            assert (await looks.look()).drifts == {}, f"rebuilt before {rebuilt_at}, after {step}"


async def test_an_order_that_the_gate_was_not_told_of_is_named(quiet_shop: Shop) -> None:
    """Booked and not confirmed, cancelled and not put back: both are untold, and no mismatch."""
    life = Life(quiet_shop, *await users(quiet_shop, 1))
    looks = comparison_of(quiet_shop)
    for step, untold in (("reserve", 0), ("book", 1), ("confirm", 0), ("cancel", 1)):
        await life.step(step)
        finding = await looks.look()

        assert (finding.drifts, len(finding.untold)) == ({}, untold), step


@pytest.mark.parametrize("units", [-3, 2])
@pytest.mark.parametrize("kind", ["left", "held", "bought"])
async def test_a_wrong_number_is_found_exactly(
    quiet_shop: Shop, kind: comparison.Kind, units: int
) -> None:
    """Whichever number of the gate is wrong, by so much, it alone is named, amid orders."""
    await Life(quiet_shop, *await users(quiet_shop, 1)).step("reserve")
    place = Place(kind, PRODUCT)
    await plant(quiet_shop, place, units)

    assert (await comparison_of(quiet_shop).look()).drifts == {place: units}


@either_ledger
async def test_a_busy_sale_raises_no_alarm(
    quiet_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty looks at a sale in full swing: no mismatch, though subtraction alone sees dozens.

    Control: the same numbers, with nothing accounted for that is on its way.
    """
    found = Counter[str]()

    def watched(news: News, reading: Reading, stock: Stock) -> Finding:
        finding = account(news, reading, stock)
        judged = {1, 2, 3, 4} - stock.moved_products
        found["judged"] += len(judged)
        found["untold"] += len(finding.untold)
        found["drifts"] += len(finding.drifts)
        found["naive"] += sum(apparent(reading, stock, product) != 0 for product in judged)
        return finding

    monkeypatch.setattr(comparison, "account", watched)
    looks = comparison_of(quiet_shop)

    async with busy_sale(quiet_shop, await users(quiet_shop, BUYERS)) as sale:
        for number in range(LOOKS):
            if number == LOOKS // 2:
                await quiet_shop.inventory.gate.rebuild()
            await looks.look()
            sale.looked()

    assert found["drifts"] == 0
    assert found["naive"] > 20
    assert found["untold"] > 20
    assert found["judged"] > LOOKS
    assert sale.ends["cancelled"] > BUYERS


def apparent(reading: Reading, stock: Stock, product: int) -> int:
    """What the gate seems to have too many of a product, by subtraction alone."""
    left, held = (reading.numbers[Place(kind, product)] for kind in ("left", "held"))
    return left + held - stock.left[product]


async def test_a_wrong_number_stays_the_same_in_a_busy_sale(quiet_shop: Shop) -> None:
    """Planted in mid-sale, it is seen as it is at each look that says anything of it."""
    seen = Counter[int]()
    looks = comparison_of(quiet_shop)
    before = await epoch(quiet_shop)
    place = Place("left", PRODUCT)

    async with busy_sale(quiet_shop, await users(quiet_shop, BUYERS)) as sale:
        await plant(quiet_shop, place, -3)
        while seen.total() < 20:
            drifts = (await looks.look()).drifts
            sale.looked()
            assert not drifts or drifts == {place: -3}
            seen.update(drifts.values())

    assert seen == {-3: 20}
    assert await epoch(quiet_shop) == before
