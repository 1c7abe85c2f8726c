"""The ledger: what is acknowledged is on disk, and what the rules forbid did not happen."""

import asyncio
import hashlib
from uuid import UUID

import pytest
from sqlmodel import col, select

from labshop.api.shop import Shop
from labshop.resilience import Patience
from labshop.shop.domain import Line, Order, Receipt
from labshop.shop.errors import (
    AlreadyBooked,
    KeyReused,
    LimitReached,
    NoSuchOrder,
    NoSuchProduct,
    SoldOut,
    StaleFence,
    Unavailable,
    Unknown,
)
from labshop.storage.tables import StockEvent
from labshop.storage.writer import GroupWriter
from tests.conftest import either_ledger, users
from tests.ledgers import other_program

pytestmark = either_ledger


def order_of(user_id: int, *lines: tuple[int, int], key: str | None = None) -> Order:
    return Order.place(user_id, [Line(*line) for line in lines], idempotency_key=key)


async def test_a_booked_order_is_on_disk_before_it_is_answered(shop: Shop) -> None:
    """Another program that opens the ledger sees the order as soon as its receipt is there."""
    [user_id] = await users(shop, 1)

    receipt = await shop.ledger.record(order_of(user_id, (1, 2), (3, 1)), fence=7)

    with other_program(shop.settings.ledger_url()) as program:
        [(order_id, fence, price)] = program.rows("SELECT id, fence, price_minor FROM purchase")
        assert (UUID(str(order_id)), fence) == (receipt.order_id, 7)
        assert price == 2 * 19_900 + 32_900
        left = "SELECT stock_left FROM product WHERE id IN (1, 2, 3) ORDER BY id"
        assert program.rows(left) == [(98,), (100,), (99,)]


async def test_it_never_sells_more_than_there_is(shop: Shop) -> None:
    """With no gate in front, 150 orders of one unit at once: 100 booked, 50 refused."""
    ids = await users(shop, 150)
    outcomes = await asyncio.gather(
        *(shop.ledger.record(order_of(user_id, (1, 1)), fence=1) for user_id in ids),
        return_exceptions=True,
    )

    assert sum(isinstance(outcome, Receipt) for outcome in outcomes) == 100
    assert sum(isinstance(outcome, SoldOut) for outcome in outcomes) == 50
    assert (await shop.ledger.snapshot()).left[1] == 0


async def test_all_lines_or_none(shop: Shop) -> None:
    """An order with one line that is short changes no product."""
    *others, last = await users(shop, 11)
    for user_id in others:
        await shop.ledger.record(order_of(user_id, (2, 9)), fence=1)
    for user_id in others[:6]:
        await shop.ledger.record(order_of(user_id, (2, 1)), fence=1)
    before = (await shop.ledger.snapshot()).left

    with pytest.raises(SoldOut):
        await shop.ledger.record(order_of(last, (1, 1), (2, 5)), fence=1)

    assert (await shop.ledger.snapshot()).left == before


async def test_an_older_fence_is_refused_per_product(shop: Shop) -> None:
    """After fence 9 wrote product 1, fence 8 may not; product 2 has seen neither."""
    [user_id] = await users(shop, 1)
    await shop.ledger.record(order_of(user_id, (1, 1)), fence=9)

    with pytest.raises(StaleFence) as refusal:
        await shop.ledger.record(order_of(user_id, (1, 1)), fence=8)
    await shop.ledger.record(order_of(user_id, (2, 1)), fence=8)
    await shop.ledger.record(order_of(user_id, (1, 1)), fence=9)

    assert (refusal.value.fence, refusal.value.newest) == (8, 9)
    assert (await shop.ledger.snapshot()).left[1] == 98


async def test_one_key_is_one_order(shop: Shop) -> None:
    """The same key again gives the first receipt; with another body it is refused."""
    ada, bob = await users(shop, 2)
    first = await shop.ledger.record(order_of(ada, (1, 1), key="k"), fence=1)

    with pytest.raises(AlreadyBooked) as again:
        await shop.ledger.record(order_of(ada, (1, 1), key="k"), fence=2)
    with pytest.raises(KeyReused):
        await shop.ledger.record(order_of(ada, (1, 2), key="k"), fence=2)
    await shop.ledger.record(order_of(bob, (1, 1), key="k"), fence=2)

    assert again.value.receipt == first
    assert (await shop.ledger.snapshot()).left[1] == 98


async def test_one_user_buys_up_to_the_limit(shop: Shop) -> None:
    """Ten units a user: the eleventh is refused, over all of the user's orders."""
    [user_id] = await users(shop, 1)
    await shop.ledger.record(order_of(user_id, (1, 6), (2, 4)), fence=1)

    with pytest.raises(LimitReached) as refusal:
        await shop.ledger.record(order_of(user_id, (3, 1)), fence=1)

    assert (refusal.value.limit, refusal.value.bought) == (10, 10)


async def test_there_is_no_such_product(shop: Shop) -> None:
    """An unknown product is refused by name."""
    [user_id] = await users(shop, 1)

    with pytest.raises(NoSuchProduct, match="no product 99"):
        await shop.ledger.record(order_of(user_id, (99, 1)), fence=1)


async def test_cancelling_gives_the_units_back_once(shop: Shop) -> None:
    """A hundred cancellations at once: one of them counts."""
    ada, bob = await users(shop, 2)
    receipt = await shop.ledger.record(order_of(ada, (1, 4)), fence=1)

    with pytest.raises(NoSuchOrder):
        await shop.ledger.cancel(receipt.order_id, user_id=bob, actor="bob")
    outcomes = await asyncio.gather(
        *(shop.ledger.cancel(receipt.order_id, user_id=ada, actor="ada") for _ in range(100))
    )

    assert sum(sequence > 0 for _, sequence in outcomes) == 1
    snapshot = await shop.ledger.snapshot()
    assert snapshot.left[1] == 100
    assert snapshot.bought == {}


async def test_the_stock_is_the_sum_of_its_events_in_an_unbroken_chain(shop: Shop) -> None:
    """Replaying a product's events gives its stock, and each event seals the one before it."""
    [user_id] = await users(shop, 1)
    receipt = await shop.ledger.record(order_of(user_id, (1, 3), (2, 1)), fence=1)
    await shop.ledger.cancel(receipt.order_id, user_id=user_id, actor="user")
    await shop.ledger.record(order_of(user_id, (1, 2)), fence=2)

    with shop.database.reading() as session:
        query = select(StockEvent).where(StockEvent.product_id == 1).order_by(col(StockEvent.id))
        events = session.exec(query).all()

    assert [event.delta for event in events] == [100, -3, 3, -2]
    assert [event.reason for event in events] == ["seeded", "sold", "cancelled", "sold"]
    assert [event.previous_hash for event in events] == ["", *(e.hash for e in events[:-1])]
    assert all(event.hash == seal(event) for event in events)
    assert sum(event.delta for event in events) == (await shop.ledger.snapshot()).left[1]


def seal(event: StockEvent) -> str:
    """The hash of an event, by its documented content."""
    at = event.created_at.isoformat()
    at = at if at.endswith("+00:00") else f"{at}+00:00"  # SQLite forgets the zone
    content = (
        f"{event.previous_hash}|{event.product_id}|{event.delta}|{event.reason}|{event.actor}"
        f"|{event.purchase_id}|{at}"
    )
    return hashlib.sha256(content.encode()).hexdigest()


async def test_many_orders_share_a_commit(shop: Shop) -> None:
    """A hundred orders that queue together need far fewer than a hundred transactions."""
    groups: list[int] = []
    write = shop.writer._write

    def counted(group: list[object]) -> list[object]:
        groups.append(len(group))
        return write(group)  # type: ignore[arg-type]  # the jobs are private to the writer

    shop.writer._write = counted  # type: ignore[method-assign,assignment]
    ids = await users(shop, 100)
    groups.clear()
    await asyncio.gather(*(shop.ledger.record(order_of(i, (1, 1)), fence=1) for i in ids))

    assert sum(groups) == 100
    assert len(groups) < 20


async def test_a_queued_order_that_timed_out_is_withdrawn(shop: Shop) -> None:
    """An order that no writer took is refused, and is not booked later."""
    [user_id] = await users(shop, 1)
    asleep = GroupWriter(shop.database, timeout_ms=20)
    shop.ledger._writer = asleep
    order = order_of(user_id, (1, 1))

    with pytest.raises(Unavailable, match="busy"):
        await shop.ledger.record(order, fence=1)
    at_work = asyncio.create_task(asleep.run())
    await asleep.submit(lambda _session: None)
    at_work.cancel()

    assert await shop.ledger.find(order.id) is None


async def test_a_commit_whose_end_was_not_seen_is_unknown_and_can_be_looked_up(
    shop: Shop,
) -> None:
    """When the time is over during the transaction, the outcome is unknown, then found."""
    [user_id] = await users(shop, 1)
    order = order_of(user_id, (1, 1))
    shop.writer.patience = Patience(0.05)

    with other_program(shop.settings.ledger_url()) as program:
        program.begin_writing()
        with pytest.raises(Unknown) as doubt:
            await shop.ledger.record(order, fence=1)
        assert doubt.value.order_id == order.id
        assert await shop.ledger.find(order.id) is None

    shop.writer.patience = Patience(5)
    await shop.writer.submit(lambda _session: None)
    assert (await found(shop, order.id)).status == "confirmed"


async def found(shop: Shop, order_id: UUID) -> Receipt:
    receipt = await shop.ledger.find(order_id)
    assert receipt is not None
    return receipt


async def test_a_cancellation_that_nobody_saw_the_end_of_reaches_the_gate(shop: Shop) -> None:
    """Its outcome was unknown to the caller; the units are on sale again all the same."""
    [user_id] = await users(shop, 1)
    order = order_of(user_id, (1, 5))
    await shop.inventory.reserve(order)
    await shop.inventory.confirm(await shop.ledger.record(order, fence=1))
    shop.writer.patience = Patience(0.05)

    with other_program(shop.settings.ledger_url()) as program:
        program.begin_writing()
        with pytest.raises(Unknown):
            await shop.ledger.cancel(order.id, user_id=user_id, actor="user")

    shop.writer.patience = Patience(5)
    await shop.ledger.catch_up()
    await shop.reconciler.look()
    assert await shop.inventory.unsold(1) == (await shop.ledger.snapshot()).left[1] == 100


async def test_a_defect_of_one_order_is_no_other_orders(shop: Shop) -> None:
    """Work that fails by a defect fails alone; what shares its transaction is booked."""
    [user_id] = await users(shop, 1)

    def broken(_session: object) -> None:
        raise ZeroDivisionError

    outcomes = await asyncio.gather(
        shop.writer.submit(broken),
        shop.ledger.record(order_of(user_id, (1, 1)), fence=1),
        return_exceptions=True,
    )

    assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError, Receipt]


async def test_a_cancellation_of_a_process_that_died_reaches_the_gate(shop: Shop) -> None:
    """Whoever cancelled was gone before the gate was told; any reconciler tells it, once."""
    [user_id] = await users(shop, 1)
    order = order_of(user_id, (1, 5))
    await shop.reconciler.look()
    await shop.inventory.reserve(order)
    await shop.inventory.confirm(await shop.ledger.record(order, fence=1))

    await shop.ledger.cancel(order.id, user_id=user_id, actor="a process that dies here")
    for _ in range(3):
        await shop.reconciler.look()

    assert not shop.inventory.gate.suspect
    assert await shop.inventory.unsold(1) == (await shop.ledger.snapshot()).left[1] == 100
