"""The gate: units are set aside, sold or given back exactly once, whatever is lost."""

import asyncio

import pytest

from labshop.api.shop import Shop
from labshop.locks import NodeDown
from labshop.shop.domain import Line, Order
from labshop.shop.errors import LimitReached, NoSuchProduct, SoldOut, StockHeld, Unavailable
from labshop.storage.records import Snapshot
from tests.conftest import either_ledger, users

pytestmark = either_ledger
PRODUCT = 1


def order_of(user_id: int, *lines: tuple[int, int]) -> Order:
    return Order.place(user_id, [Line(*line) for line in lines])


async def gate(shop: Shop, product_id: int = PRODUCT) -> tuple[int, int]:
    """Units left and held, raw from Redis."""
    key = "{sale:1}:gate"
    left, held = await shop.node.command("HMGET", key, f"left:{product_id}", f"held:{product_id}")
    return int(left), int(held or 0)


async def test_a_reservation_moves_units_from_left_to_held_and_on(shop: Shop) -> None:
    """Reserved units are held; confirmed, they are gone; released, they are back."""
    [user_id] = await users(shop, 1)
    bought, given_up = order_of(user_id, (PRODUCT, 2)), order_of(user_id, (PRODUCT, 3))

    await shop.inventory.reserve(bought)
    await shop.inventory.reserve(given_up)
    assert await gate(shop) == (95, 5)

    await shop.inventory.confirm(await shop.ledger.record(bought, fence=1))
    await shop.inventory.release(given_up.id)
    assert await gate(shop) == (98, 0)


async def test_asking_twice_reserves_once(shop: Shop) -> None:
    """A repeated reservation of the same order takes no further units."""
    order = order_of(1, (PRODUCT, 2))

    await asyncio.gather(*(shop.inventory.reserve(order) for _ in range(5)))

    assert await gate(shop) == (98, 2)


async def test_a_reservation_that_comes_after_its_release_is_refused(shop: Shop) -> None:
    """A request that was delayed on its way and given up meanwhile takes nothing."""
    order = order_of(1, (PRODUCT, 2))
    await shop.inventory.release(order.id)

    with pytest.raises(Unavailable, match="given up"):
        await shop.inventory.reserve(order)

    assert await gate(shop) == (100, 0)


async def test_it_refuses_with_reasons(shop: Shop) -> None:
    """Sold out, held by others, over the limit, unknown: each is told apart, and takes nothing."""
    [buyer] = await users(shop, 1)
    for user_id in range(1, 11):
        await shop.inventory.reserve(order_of(user_id, (PRODUCT, 9)))

    with pytest.raises(LimitReached):
        await shop.inventory.reserve(order_of(1, (2, 2)))
    with pytest.raises(StockHeld):
        await shop.inventory.reserve(order_of(99, (PRODUCT, 11)))
    await shop.ledger.record(order_of(buyer, (3, 10)), fence=1)
    await shop.inventory.gate.rebuild()
    with pytest.raises(SoldOut):
        await shop.inventory.reserve(order_of(99, (2, 1), (3, 91)))
    with pytest.raises(NoSuchProduct):
        await shop.inventory.reserve(order_of(99, (77, 1)))

    assert await gate(shop, 2) == (100, 0)
    assert await gate(shop, 3) == (90, 0)


async def test_a_restart_never_revives_stock(shop: Shop) -> None:
    """Heating a gate that is there changes nothing."""
    await shop.inventory.reserve(order_of(1, (PRODUCT, 5)))

    await shop.inventory.gate.heat()

    assert await gate(shop) == (95, 5)


async def test_an_emptied_gate_is_built_from_the_ledger(shop: Shop) -> None:
    """After FLUSHALL the next reservation finds what the ledger has left."""
    ada, bob = await users(shop, 2)
    await shop.ledger.record(order_of(ada, (PRODUCT, 10)), fence=1)
    await shop.node.command("FLUSHALL")

    await shop.inventory.reserve(order_of(bob, (PRODUCT, 1)))

    assert await gate(shop) == (89, 1)
    with pytest.raises(LimitReached):
        await shop.inventory.reserve(order_of(ada, (PRODUCT, 1)))


async def test_an_order_on_its_way_through_a_flush_takes_its_units_once(shop: Shop) -> None:
    """Reserved before the flush, booked after the rebuilding: the gate takes the units then."""
    [user_id] = await users(shop, 1)
    order = order_of(user_id, (PRODUCT, 4))
    await shop.inventory.reserve(order)
    await shop.node.command("FLUSHALL")
    await shop.inventory.gate.heat()
    assert await gate(shop) == (100, 0)

    receipt = await shop.ledger.record(order, fence=1)
    await asyncio.gather(*(shop.inventory.confirm(receipt) for _ in range(3)))

    assert await gate(shop) == (96, 0)


async def test_an_order_that_the_rebuilding_counted_takes_no_units_again(shop: Shop) -> None:
    """Booked before the rebuilding, confirmed after it: the snapshot has it already."""
    [user_id] = await users(shop, 1)
    order = order_of(user_id, (PRODUCT, 4))
    await shop.inventory.reserve(order)
    receipt = await shop.ledger.record(order, fence=1)
    await shop.inventory.gate.rebuild()

    await shop.inventory.confirm(receipt)

    assert await gate(shop) == (96, 0)


async def test_a_release_after_a_rebuilding_gives_nothing_back(shop: Shop) -> None:
    """The new gate counts the units of an old reservation as free; they are not freed twice."""
    order = order_of(1, (PRODUCT, 4))
    await shop.inventory.reserve(order)
    await shop.inventory.gate.rebuild()

    await shop.inventory.release(order.id)

    assert await gate(shop) == (100, 0)


async def test_a_snapshot_from_before_another_flush_is_not_used(shop: Shop) -> None:
    """Between its reading and its use the memory was lost again: the stale snapshot is refused."""
    [user_id] = await users(shop, 1)
    await shop.node.command("FLUSHALL")
    reading, go_on = asyncio.Event(), asyncio.Event()
    snapshot = shop.ledger.snapshot

    async def slow_snapshot() -> Snapshot:
        seen = await snapshot()
        shop.inventory.gate.snapshot = snapshot
        reading.set()
        await go_on.wait()
        return seen

    shop.inventory.gate.snapshot = slow_snapshot
    slow = asyncio.create_task(shop.inventory.gate.heat())
    await reading.wait()
    await shop.ledger.record(order_of(user_id, (PRODUCT, 10)), fence=1)
    await shop.node.command("FLUSHALL")
    go_on.set()
    await slow

    assert await gate(shop) == (90, 0)


async def test_a_returned_order_is_on_sale_again_once(shop: Shop) -> None:
    """A cancellation puts the units back once, also when the gate never heard of the sale."""
    [user_id] = await users(shop, 1)
    order = order_of(user_id, (PRODUCT, 4))
    await shop.inventory.reserve(order)
    await shop.ledger.record(order, fence=1)
    cancelled, sequence = await shop.ledger.cancel(order.id, user_id=user_id, actor="user")

    await asyncio.gather(*(shop.inventory.put_back(cancelled, sequence) for _ in range(3)))

    assert await gate(shop) == (100, 0)


async def test_what_could_not_be_told_makes_the_gate_suspect_and_is_repaired(shop: Shop) -> None:
    """A sale that the gate could not be told is in the rebuilt gate."""
    [user_id] = await users(shop, 1)
    order = order_of(user_id, (PRODUCT, 4))
    receipt = await shop.ledger.record(order, fence=1)
    node, shop.inventory.gate.node = shop.inventory.gate.node, UnreachableNode()  # type: ignore[assignment]
    await shop.inventory.confirm(receipt)
    shop.inventory.gate.node = node
    assert shop.inventory.gate.suspect

    await shop.reconciler.look()

    assert await gate(shop) == (96, 0)


class UnreachableNode:
    """A node to which every command fails, as the real one does when its port is closed."""

    connections = 1

    async def run(self, *_args: object) -> None:
        raise NodeDown("127.0.0.1:1", "connection refused")

    command = run


async def test_abandoned_reservations_are_settled_by_the_ledger(shop: Shop) -> None:
    """Of two abandoned reservations, the booked one is confirmed, the other given back."""
    ada, bob = await users(shop, 2)
    booked, lost = order_of(ada, (PRODUCT, 2)), order_of(bob, (PRODUCT, 3))
    for order in (booked, lost):
        await shop.inventory.reserve(order)
    await shop.ledger.record(booked, fence=1)
    shop.reconciler._reservation_ttl_ms = 0

    await shop.reconciler.look()

    assert await gate(shop) == (98, 0)
    assert await shop.inventory.abandoned(older_than_ms=0) == []


async def test_a_cancellation_that_overtakes_its_confirmation_is_counted_once(shop: Shop) -> None:
    """Reserved, rebuilt, booked, put back, and only then confirmed: all units are on sale."""
    [user_id] = await users(shop, 1)
    order = order_of(user_id, (PRODUCT, 4))
    await shop.inventory.reserve(order)
    await shop.inventory.gate.rebuild()
    receipt = await shop.ledger.record(order, fence=1)
    cancelled, sequence = await shop.ledger.cancel(order.id, user_id=user_id, actor="user")

    await shop.inventory.put_back(cancelled, sequence)
    await shop.inventory.confirm(receipt)

    assert await gate(shop) == (100, 0)


async def test_a_message_lost_during_a_rebuilding_is_not_forgotten(shop: Shop) -> None:
    """What makes the gate suspect while it is being built anew has it built once more."""
    snapshot = shop.ledger.snapshot

    async def loses_a_message() -> Snapshot:
        seen = await snapshot()
        shop.inventory.gate.suspect = True
        return seen

    shop.inventory.gate.snapshot = loses_a_message

    await shop.inventory.gate.rebuild()

    assert shop.inventory.gate.suspect


async def test_a_cancelled_rebuilding_is_done_again(shop: Shop) -> None:
    """A task that is cancelled while it builds the gate leaves it suspect."""
    reading = asyncio.Event()

    async def never_reads() -> Snapshot:
        reading.set()
        await asyncio.Event().wait()
        raise AssertionError

    shop.inventory.gate.snapshot = never_reads
    task = asyncio.create_task(shop.inventory.gate.rebuild())
    await reading.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert shop.inventory.gate.suspect


async def test_a_builder_from_before_a_drop_does_not_build(shop: Shop) -> None:
    """Dropping the gate takes a builder's ticket: its snapshot may lack what made it suspect."""
    [user_id] = await users(shop, 1)
    await shop.node.command("FLUSHALL")
    reading, go_on = asyncio.Event(), asyncio.Event()
    snapshot = shop.ledger.snapshot

    async def slow_snapshot() -> Snapshot:
        seen = await snapshot()
        reading.set()
        await go_on.wait()
        return seen

    shop.inventory.gate.snapshot = slow_snapshot
    slow = asyncio.create_task(shop.inventory.gate.heat())
    await reading.wait()
    shop.inventory.gate.snapshot = snapshot
    await shop.ledger.record(order_of(user_id, (PRODUCT, 10)), fence=1)
    await shop.inventory.gate.rebuild()
    go_on.set()
    await slow

    assert await gate(shop) == (90, 0)
