"""The past that the bench gives to a ledger is one that the shop could have had."""

from datetime import UTC

import pytest
from sqlalchemy import text
from sqlmodel import col, select

from labshop.api.shop import Shop
from labshop.load.filled_ledger import add_orders, add_products, add_users
from labshop.shop.domain import Line, Order
from labshop.shop.errors import LimitReached
from labshop.storage.changes import next_event
from labshop.storage.tables import StockEvent

ORDERS, USERS, PRODUCTS = 90, 30, 12


@pytest.fixture
async def bought(shop: Shop) -> range:
    """The users who have bought three units each, known to the gate as well."""
    users = add_users(shop.database, USERS)
    add_products(shop.database, PRODUCTS, 50)
    add_orders(shop.database, ORDERS, users=users, products=PRODUCTS)
    await shop.inventory.gate.rebuild()
    return users


async def test_the_shop_goes_on_from_there(shop: Shop, bought: range) -> None:
    """Old orders are found, the limit counts them, and a new one follows the last."""
    newest = await shop.ledger.sequence()
    orders = await shop.ledger.orders_of(bought[0], limit=10, offset=0)

    assert [order.lines for order in orders] == [(Line(1 + n % 12, 1),) for n in (60, 30, 0)]
    with pytest.raises(LimitReached):
        await shop.inventory.reserve(Order.place(bought[0], [Line(12, 8)]))
    receipt = await shop.ledger.record(Order.place(bought[0], [Line(12, 7)]), fence=0)
    assert receipt.sequence == newest + 1
    assert (await shop.ledger.snapshot()).left[12] == 43


async def test_its_chains_are_whole(shop: Shop, bought: range) -> None:
    """Each event carries the hash of its product's previous one, and its own is right."""
    with shop.database.reading() as session:
        events = session.exec(select(StockEvent).order_by(col(StockEvent.id))).all()
        orphans = session.connection().execute(text("PRAGMA foreign_key_check")).all()
    newest = dict.fromkeys(range(1, PRODUCTS + 1), "")
    for event in events:
        assert event.id is not None
        told = event.model_dump(exclude={"id", "previous_hash", "hash", "created_at"})
        at = event.created_at.replace(tzinfo=UTC)
        assert event.hash == next_event(event.id, newest[event.product_id], at=at, **told)["hash"]
        newest[event.product_id] = event.hash

    assert orphans == []
    assert len(events) == 10 + ORDERS
