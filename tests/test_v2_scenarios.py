"""The roadmap's scenarios for stage v2, by name, each beside its control."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from labshop.api.shop import Shop
from labshop.lab.trial import Arena, try_out
from labshop.lab.trial.scenarios import SHOP
from labshop.locks import DeadlockError, Lock, LockEvent, LockTimeout, WaitForGraph
from labshop.locks.deadlock import Owner
from labshop.shop.domain import Line, Order, Receipt
from labshop.shop.errors import PurchaseError, SoldOut, Unavailable
from labshop.stages.v2_multilock import Purchase
from tests.conftest import users

A, B, C = 1, 2, 3


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Arena() as arena:
        yield arena


async def stock(shop: Shop, *products: int) -> list[int]:
    """Units left at the gate, which must be those of the ledger."""
    at_gate = [await shop.inventory.left(product) for product in products]
    snapshot = await shop.ledger.snapshot()
    assert at_gate == [snapshot.left[product] for product in products]
    return at_gate


async def put_on_sale(shop: Shop, units: dict[int, int]) -> None:
    for product, count in units.items():
        await shop.ledger.adjust(product, units=count, actor="test")
    await shop.inventory.gate.rebuild()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_s28_hundred_users_buy_two_or_three_of_ten_products(arena: Arena, seed: int) -> None:
    """S28: 10 products of 100, 100 users take 2-3 at random: no deadlock, and exact stock."""
    trial = await try_out(Purchase, SHOP["ten products"], arena=arena, seed=seed)

    assert trial.verdict.outcome == "VALID", str(trial)
    buys = list(trial.history.of("buy"))
    booked = {buy.process for buy in buys if buy.outcome == "ok"}
    assert booked == {buy.process for buy in buys}
    assert len(booked) == 100
    # On a slow machine a lease may have ended before it was handed out: refused, and tried again.
    assert {buy.error for buy in buys} <= {"", "LockTimeout", "LockExpired", "StaleFence"}


async def test_s28_an_order_may_name_ten_products_and_no_more(shop: Shop) -> None:
    """S32: an order has up to ten products, all locked at once, whatever their order."""
    [user] = await users(shop, 1)
    lines = [Line(product, 1) for product in range(10, 0, -1)]

    receipt = await Purchase(shop.toolbox()).buy(Order.place(user, lines))

    assert [line.product_id for line in receipt.lines] == list(range(1, 11))
    assert await stock(shop, *range(1, 11)) == [99] * 10


async def test_s29_a_bundle_of_which_one_is_short_is_not_sold(shop: Shop) -> None:
    """S29: of A+B+C with B short, nothing is sold, and A and C are back as they were."""
    await put_on_sale(shop, {A: 5, B: 1, C: 5})
    [user] = await users(shop, 1)
    bundle = [Line(C, 1), Line(B, 2), Line(A, 1)]

    with pytest.raises(SoldOut) as refusal:
        await Purchase(shop.toolbox()).buy(Order.place(user, bundle))

    assert (refusal.value.product_id, refusal.value.left) == (B, 1)
    assert await stock(shop, A, B, C) == [5, 1, 5]
    assert await shop.ledger.orders_of(user, limit=9, offset=0) == []


class OneByOne:
    """The control of S29: each line is an order of its own, and what was bought stays bought."""

    def __init__(self, shop: Shop) -> None:
        self.stage = Purchase(shop.toolbox())

    async def buy(self, order: Order) -> list[Receipt]:
        return [await self.stage.buy(Order.place(order.user_id, [line])) for line in order.lines]


async def test_s29_control_line_by_line_half_a_bundle_is_sold(shop: Shop) -> None:
    """Control: bought line by line, A is gone when B turns out to be short."""
    await put_on_sale(shop, {A: 5, B: 1, C: 5})
    [user] = await users(shop, 1)

    with pytest.raises(SoldOut):
        await OneByOne(shop).buy(Order.place(user, [Line(A, 1), Line(B, 2), Line(C, 1)]))

    assert await stock(shop, A, B, C) == [4, 1, 5]


async def test_s34_a_ledger_that_fails_gives_all_lines_back(shop: Shop) -> None:
    """S34: when SQL fails to save an order of three products, all three are back, exactly."""

    class Failing:
        async def record(self, order: Order, *, fence: int) -> Receipt:
            raise Unavailable("ledger", f"the disk is full at fence {fence} of {order.id}")

    [user] = await users(shop, 1)
    tools = replace(shop.toolbox(), ledger=Failing())

    with pytest.raises(Unavailable):
        await Purchase(tools).buy(Order.place(user, [Line(A, 3), Line(B, 2), Line(C, 1)]))

    assert await stock(shop, A, B, C) == [100, 100, 100]


async def test_a_product_named_twice_is_one_lock(shop: Shop) -> None:
    """S27: an order that was not merged does not wait for itself; its units are summed first."""
    [user] = await users(shop, 1)
    order = replace(Order.place(user, [Line(A, 1)]), lines=(Line(B, 1), Line(A, 1), Line(B, 2)))

    receipt = await Purchase(replace(shop.toolbox(), lock_wait_ms=0)).buy(order)

    assert receipt.lines == (Line(A, 1), Line(B, 3))
    assert await stock(shop, A, B) == [99, 97]


class InTheOrderOfTheBuyer:
    """The control of S30: locks are taken as the buyer names the products.

    Both buyers hold their first lock before either asks for its second: the worst case, forced.
    """

    def __init__(self, shop: Shop, *, wait_ms: float, graph: WaitForGraph | None = None) -> None:
        self.shop = shop
        self.wait_ms = wait_ms
        self.graph = graph
        self.have_one = asyncio.Barrier(2)

    async def buy(self, user: int, first: int, second: int) -> str:
        owner = self.graph.owner(f"buyer-{user}") if self.graph else None
        try:
            async with self.lock(first, owner).hold(wait_ms=self.wait_ms):
                await self.have_one.wait()
                async with self.lock(second, owner).hold(wait_ms=self.wait_ms):
                    tools = self.shop.toolbox()
                    order = Order.place(user, [Line(first, 1), Line(second, 1)])
                    await tools.inventory.reserve(order)
                    await tools.inventory.confirm(await tools.ledger.record(order, fence=0))
        except (PurchaseError, LockTimeout, DeadlockError) as end:
            return type(end).__name__
        return "sold"

    def lock(self, product: int, owner: Owner | None) -> Lock:
        lock = self.shop._single_lock(f"product:{product}")
        return owner.watch(lock) if owner else lock


async def test_s30_opposite_orders_do_not_deadlock(shop: Shop) -> None:
    """S30: fifty buyers of A→B and fifty of B→A all get theirs; nobody waits in vain."""

    async def buy(user: int, lines: list[Line]) -> str:
        order = replace(Order.place(user, lines), lines=tuple(lines))
        receipt = await Purchase(shop.toolbox()).buy(order)
        return receipt.status

    buyers = await users(shop, 100)
    orders = ([Line(A, 1), Line(B, 1)], [Line(B, 1), Line(A, 1)])
    ends = await asyncio.gather(*(buy(user, orders[n % 2]) for n, user in enumerate(buyers)))

    assert Counter(ends) == {"confirmed": 100}
    assert await stock(shop, A, B) == [0, 0]


async def test_s30_control_unsorted_locks_do_deadlock(shop: Shop) -> None:
    """Control: in opposite orders, each holds one lock and waits for the other, both in vain."""
    ada, bob = await users(shop, 2)
    control = InTheOrderOfTheBuyer(shop, wait_ms=400)

    ends = await asyncio.gather(control.buy(ada, A, B), control.buy(bob, B, A))

    assert "LockTimeout" in ends
    assert "DeadlockError" not in ends


async def test_s26_the_detector_frees_the_unsorted_control(shop: Shop) -> None:
    """S26: the same two, watched: the younger gives way at once, and the other one buys."""
    ada, bob = await users(shop, 2)
    events: list[LockEvent] = []
    graph = WaitForGraph(shop.node, on_event=events.append)
    control = InTheOrderOfTheBuyer(shop, wait_ms=30_000, graph=graph)

    async with asyncio.timeout(5):
        ends = await asyncio.gather(control.buy(ada, A, B), control.buy(bob, B, A))

    assert sorted(ends) == ["DeadlockError", "sold"]
    assert [event.kind for event in events] == ["deadlocked"]
    assert await stock(shop, A, B) == [99, 99]
