"""One writer at a time, and readers who see one moment, on either engine and from any process."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from sqlalchemy import event
from sqlmodel import col, select

from labshop.api.shop import Shop
from labshop.shop.domain import Line, Order, Receipt
from labshop.shop.errors import Unavailable
from labshop.storage import database as storage_database
from labshop.storage.changes import newest_event_id
from labshop.storage.database import Database
from labshop.storage.ledger import SqlLedger
from labshop.storage.tables import Product
from labshop.storage.writer import GroupWriter
from tests.conftest import either_ledger, on_postgresql, users
from tests.ledgers import told_of_statements

PRODUCT = 1


def order_of(user_id: int, quantity: int = 1, key: str | None = None) -> Order:
    return Order.place(user_id, [Line(PRODUCT, quantity)], idempotency_key=key)


@asynccontextmanager
async def other_process(shop: Shop) -> AsyncIterator[SqlLedger]:
    """The same ledger as another process has it: with connections and a writer of its own."""
    database = Database(shop.settings.ledger_url(), timeout_ms=2_000)
    writer = GroupWriter(database, timeout_ms=5_000)
    at_work = asyncio.create_task(writer.run())
    yield SqlLedger(database, writer)
    at_work.cancel()
    await asyncio.gather(at_work, return_exceptions=True)
    database.close()


@contextmanager
def held_before_writing(shop: Shop) -> Iterator[tuple[asyncio.Event, threading.Event]]:
    """Stop this shop's writer when it has read, and before it writes; tells that it stands."""
    loop, stands, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def stop(statement: str) -> None:
        if statement.startswith("INSERT INTO purchase ") and not stands.is_set():
            loop.call_soon_threadsafe(stands.set)
            assert go_on.wait(10)

    with told_of_statements(shop.database.engine, stop):
        try:
            yield stands, go_on
        finally:
            go_on.set()


@either_ledger
async def test_a_second_process_books_after_the_first(shop: Shop) -> None:
    """While one process has read and not yet written, another waits, and both orders are booked."""
    ada, bob = await users(shop, 2)
    async with other_process(shop) as ledger:
        with held_before_writing(shop) as (stands, go_on):
            first = asyncio.create_task(shop.ledger.record(order_of(ada, 10), fence=0))
            await stands.wait()
            second = asyncio.create_task(ledger.record(order_of(bob, 10), fence=0))
            done, _ = await asyncio.wait([second], timeout=0.3)
            assert not done
            go_on.set()
            receipts = await asyncio.gather(first, second)

    assert receipts[1].sequence == receipts[0].sequence + 1
    assert (await shop.ledger.snapshot()).left[PRODUCT] == 80


@on_postgresql
async def test_control_without_the_writers_place_a_second_process_is_refused(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: both read the same newest event, and the slower one's order is no order."""
    ada, bob = await users(shop, 2)
    monkeypatch.setattr(storage_database, "_begin_postgresql", lambda _connection: None)
    async with other_process(shop) as ledger:
        with held_before_writing(shop) as (stands, go_on):
            first = asyncio.create_task(shop.ledger.record(order_of(ada, 10), fence=0))
            await stands.wait()
            await ledger.record(order_of(bob, 10), fence=0)
            go_on.set()
            with pytest.raises(Unavailable, match="duplicate key"):
                await first

    assert (await shop.ledger.snapshot()).left[PRODUCT] == 90


@either_ledger
async def test_two_processes_sell_each_unit_once(shop: Shop) -> None:
    """Of 150 orders at two processes, with no gate in front, exactly 100 are booked."""
    ids = await users(shop, 150)
    async with other_process(shop) as ledger:
        doors = (shop.ledger, ledger)
        outcomes = await asyncio.gather(
            *(doors[i % 2].record(order_of(user), fence=0) for i, user in enumerate(ids)),
            return_exceptions=True,
        )

    booked = [outcome for outcome in outcomes if isinstance(outcome, Receipt)]
    assert len({receipt.sequence for receipt in booked}) == len(booked) == 100
    assert (await shop.ledger.snapshot()).left[PRODUCT] == 0


@either_ledger
async def test_one_key_at_two_processes_is_one_order(shop: Shop) -> None:
    """Twenty requests under one key, at two processes at once: one order, told to all of them."""
    [user_id] = await users(shop, 1)
    async with other_process(shop) as ledger:
        outcomes = await asyncio.gather(
            *(
                door.record(order_of(user_id, key="k"), fence=0)
                for door in (shop.ledger, ledger)
                for _ in range(10)
            ),
            return_exceptions=True,
        )

    receipts = {o if isinstance(o, Receipt) else getattr(o, "receipt", None) for o in outcomes}
    assert len(receipts) == 1
    assert None not in receipts
    assert (await shop.ledger.snapshot()).left[PRODUCT] == 99


@either_ledger
async def test_cancelled_at_two_processes_the_units_come_back_once(shop: Shop) -> None:
    """Fifty cancellations of one order at two processes: one of them counts."""
    [user_id] = await users(shop, 1)
    receipt = await shop.ledger.record(order_of(user_id, 4), fence=0)
    async with other_process(shop) as ledger:
        outcomes = await asyncio.gather(
            *(
                door.cancel(receipt.order_id, user_id=user_id, actor="user")
                for door in (shop.ledger, ledger)
                for _ in range(25)
            )
        )

    assert sum(sequence > 0 for _, sequence in outcomes) == 1
    assert (await shop.ledger.snapshot()).left[PRODUCT] == 100


@either_ledger
async def test_two_processes_never_get_the_same_fence(shop: Shop) -> None:
    """A hundred fencing tokens, from two processes at once: each is given out once, and grows."""
    async with other_process(shop) as ledger:
        doors = (shop.ledger, ledger)
        fences = await asyncio.gather(*(doors[i % 2].next_fence("stock:1") for i in range(100)))
        last = await ledger.next_fence("stock:1")

    assert len(set(fences)) == 100
    assert sorted(fences[::2]) == fences[::2]
    assert sorted(fences[1::2]) == fences[1::2]
    assert last > max(fences)


@either_ledger
async def test_a_reader_sees_one_moment(shop: Shop) -> None:
    """What is sold between two queries of one reading is in neither of them."""
    [user_id] = await users(shop, 1)
    with shop.database.reading() as session:
        left = session.exec(select(Product.stock_left).where(col(Product.id) == PRODUCT)).one()
        before = newest_event_id(session)
        receipt = await shop.ledger.record(order_of(user_id, 4), fence=0)
        after = newest_event_id(session)

    assert (left, after) == (100, before)
    assert receipt.sequence > before


@on_postgresql
async def test_control_a_reader_with_a_writers_isolation_sees_two(shop: Shop) -> None:
    """Control: a reading that does not ask for its isolation finds what was sold meanwhile."""
    [user_id] = await users(shop, 1)
    with isolation_not_asked_for(shop), shop.database.reading() as session:
        before = newest_event_id(session)
        receipt = await shop.ledger.record(order_of(user_id, 4), fence=0)
        after = newest_event_id(session)

    assert before < after == receipt.sequence


@contextmanager
def isolation_not_asked_for(shop: Shop) -> Iterator[None]:
    """Readers take what the connection has: the isolation of a writer."""
    engine = shop.database.engine
    event.remove(engine, "begin", storage_database._begin_postgresql)
    yield
    event.listen(engine, "begin", storage_database._begin_postgresql)
