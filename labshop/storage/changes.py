"""Changes of the ledger other than sales: each one conditional step in its transaction.

An update names what must hold, so that the check and the change are one. Each change of a stock is
an event, appended to its product's chain of hashes.
"""

import hashlib
from datetime import UTC, datetime
from typing import TypedDict
from uuid import UUID

from sqlmodel import Session, col, func, select, update

from labshop.shop.domain import Receipt
from labshop.shop.errors import NoSuchOrder, NoSuchProduct
from labshop.storage.records import find
from labshop.storage.tables import FenceCounter, Product, Purchase, StockEvent


class EventRow(TypedDict):
    """A stock event, as its table has it."""

    id: int
    product_id: int
    delta: int
    reason: str
    actor: str
    purchase_id: UUID | None
    created_at: datetime
    previous_hash: str
    hash: str


def cancel(session: Session, order_id: UUID, user_id: int, actor: str) -> tuple[Receipt, int]:
    won = session.execute(
        update(Purchase)
        .where(
            col(Purchase.id) == order_id,
            col(Purchase.user_id) == user_id,
            col(Purchase.status) == "confirmed",
        )
        .values(status="cancelled")
        .returning(col(Purchase.id))
    ).scalar_one_or_none()
    receipt = find(session, order_id)
    if receipt is None or receipt.user_id != user_id:
        raise NoSuchOrder(order_id)
    sequence = 0
    if won is not None:
        for line in receipt.lines:
            session.execute(
                update(Product)
                .where(col(Product.id) == line.product_id)
                .values(stock_left=col(Product.stock_left) + line.quantity)
            )
            sequence = append_event(
                session, line.product_id, line.quantity, "cancelled", actor, order_id
            )
    return receipt, sequence


def adjust(session: Session, product_id: int, units: int, actor: str) -> int:
    """Set a product's stock, as an event of the difference; returns its sequence.

    Raises:
        NoSuchProduct: there is none by that id.
    """
    product = session.get(Product, product_id, with_for_update=True, populate_existing=True)
    if product is None:
        raise NoSuchProduct(product_id)
    delta = units - product.stock_left
    product.stock_left = units
    return append_event(session, product_id, delta, "adjusted", actor, None)


def next_fence(session: Session) -> int:
    """Count the fencing token up; at least to the wall clock's microseconds.

    So it stands above the tokens of locks on one node, which count the microseconds of Redis.
    """
    counter = session.get(FenceCounter, 1, with_for_update=True) or FenceCounter(id=1, newest=0)
    now_us = int(datetime.now(UTC).timestamp() * 1_000_000)
    counter.newest = max(counter.newest + 1, now_us)
    session.add(counter)
    session.flush()
    return counter.newest


def append_event(
    session: Session,
    product_id: int,
    delta: int,
    reason: str,
    actor: str,
    purchase_id: UUID | None,
) -> int:
    """Append a stock event to its product's hash chain, and return its sequence.

    The caller changes the product's row in the same transaction, so that the events of one product
    follow each other in the order of their commits.
    """
    product = session.get_one(Product, product_id, populate_existing=True)
    event = next_event(
        newest_event_id(session) + 1,
        product.newest_hash,
        product_id=product_id,
        delta=delta,
        reason=reason,
        actor=actor,
        purchase_id=purchase_id,
        at=datetime.now(UTC),
    )
    product.newest_hash = event["hash"]
    session.add_all((product, StockEvent(**event)))
    session.flush()
    return event["id"]


def newest_event_id(session: Session) -> int:
    """The number of the newest event; whoever writes is alone, so the next one is one more."""
    return session.exec(select(func.max(StockEvent.id))).one() or 0


def next_event(
    number: int,
    previous_hash: str,
    *,
    product_id: int,
    delta: int,
    reason: str,
    actor: str,
    purchase_id: UUID | None,
    at: datetime,
) -> EventRow:
    """The row of an event, with the hash that chains it to the one before."""
    content = (
        f"{previous_hash}|{product_id}|{delta}|{reason}|{actor}|{purchase_id}|{at.isoformat()}"
    )
    return {
        "id": number,
        "product_id": product_id,
        "delta": delta,
        "reason": reason,
        "actor": actor,
        "purchase_id": purchase_id,
        "created_at": at,
        "previous_hash": previous_hash,
        "hash": hashlib.sha256(content.encode()).hexdigest(),
    }
