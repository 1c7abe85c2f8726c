"""A shop at whose gate nobody repairs unasked, and what a test does to it."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from labshop.api.shop import Shop, build_shop, running
from labshop.ops.repair import Repairer, Report
from labshop.settings import Settings
from labshop.shop.domain import Line, Order
from labshop.shop.errors import PurchaseError
from labshop.stack.nodes import ServerNode
from labshop.storage.comparison import Comparison, Place
from labshop.storage.inventory import RedisInventory
from tests.conftest import SETTLE_S, connected
from tests.ledgers import stock

GATE, BOUGHT = "{sale:1}:gate", "{sale:1}:bought"
PRODUCT, STOCK = 1, 100
FENCE = 2**52
"""Newer than that of any leader of these days."""


@pytest.fixture
async def quiet_shop(valkey: ServerNode, settings: Settings) -> AsyncIterator[Shop]:
    """A shop whose leader leaves the gate as it is; all else is at work."""
    async with connected(valkey):
        pass
    shop = quiet(build_shop(settings, gate_url=valkey.url))
    async with running(shop):
        async with asyncio.timeout(SETTLE_S):
            await shop.opened.wait()
        yield shop


@pytest.fixture
async def stores(valkey: ServerNode, settings: Settings) -> AsyncIterator[Shop]:
    """Gate and ledger, seen from a process that neither sells nor leads."""
    async with connected(valkey):
        pass
    settings.home.mkdir()
    stock(settings.ledger_url())
    shop = build_shop(settings, gate_url=valkey.url)
    await shop.inventory.gate.heat()
    yield shop
    await shop.node.close()
    shop.database.close()


def quiet(shop: Shop) -> Shop:
    """Let a shop's leader leave the gate as it is."""

    async def idle(fence: int) -> Report:
        return Report()

    assert shop.repairer is not None
    shop.repairer.repair = idle  # type: ignore[method-assign]
    return shop


def comparison_of(shop: Shop) -> Comparison:
    return Comparison(shop.inventory.gate, shop.database)


def repairer_of(shop: Shop) -> Repairer:
    """Another one than the leader's, to be asked by the test."""
    inventory, publish = shop.inventory, shop.events.publish
    assert isinstance(inventory, RedisInventory)
    return Repairer(inventory, comparison_of(shop), shop.clock, shop.repairs, publish)


async def plant(shop: Shop, place: Place, units: int) -> None:
    """Make a number of the gate wrong, as a defect or an operator would."""
    key, field = (BOUGHT, place.number) if place.kind == "bought" else (GATE, str(place))
    await shop.node.command("HINCRBY", key, field, units)


async def epoch(shop: Shop) -> str:
    return str(await shop.node.command("HGET", GATE, "epoch"))


def order_of(user_id: int, *lines: tuple[int, int]) -> Order:
    return Order.place(user_id, [Line(*line) for line in lines])


class BusySale:
    """Buyers who stop between any two steps, for some looks; it ends when it is told to."""

    def __init__(self, shop: Shop) -> None:
        self.ends: Counter[str] = Counter()
        self._is_over = False
        self._looked = asyncio.Event()
        self._shop = shop
        self._chance = random.Random(1)

    def looked(self) -> None:
        """Let those go on who wait for a look."""
        self._looked.set()
        self._looked = asyncio.Event()

    def end(self) -> None:
        self._is_over = True
        self.looked()

    async def visit(self, user_id: int) -> None:
        while not self._is_over:
            try:
                self.ends[await self._buy(user_id)] += 1
            except PurchaseError as error:
                self.ends[type(error).__name__] += 1
                await self._stop()

    async def _buy(self, user_id: int) -> str:
        shop, chance = self._shop, self._chance
        order = order_of(user_id, *((product, 1) for product in chance.sample(range(1, 5), 2)))
        await shop.inventory.reserve(order)
        await self._stop()
        if chance.random() < 0.1:
            await shop.inventory.release(order.id)
            return "released"
        receipt = await shop.ledger.record(order, fence=0)
        await self._stop()
        await shop.inventory.confirm(receipt)
        await self._stop()
        cancelled, number = await shop.ledger.cancel(order.id, user_id=user_id, actor="buyer")
        await self._stop()
        await shop.inventory.put_back(cancelled, number)
        return "cancelled"

    async def _stop(self) -> None:
        for _ in range(self._chance.randrange(4)):
            if not self._is_over:
                await self._looked.wait()


@asynccontextmanager
async def busy_sale(shop: Shop, buyers: Iterable[int]) -> AsyncIterator[BusySale]:
    """A sale in full swing for the length of a body; whoever has begun to buy then, ends it."""
    sale = BusySale(shop)
    async with asyncio.TaskGroup() as tasks:
        for user_id in buyers:
            tasks.create_task(sale.visit(user_id))
        try:
            yield sale
        finally:
            sale.end()
