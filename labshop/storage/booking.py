"""The rules of the ledger: what a transaction may change, each in one conditional step.

An update names what must hold (enough stock, a fence not older than the newest), so that the
check and the change are one; what it refuses is then read only to say why.
"""

import hashlib
from datetime import UTC, datetime
from uuid import UUID

from sqlmodel import Session, col, desc, select, update

from labshop.shop.domain import Line, Order, Receipt, Sale
from labshop.shop.errors import (
    AlreadyBooked,
    KeyReused,
    LimitReached,
    NoSuchOrder,
    NoSuchProduct,
    SaleClosed,
    SoldOut,
    StaleFence,
)
from labshop.storage.catalog import read_sale
from labshop.storage.records import as_receipt, find, find_by_key, read_bought
from labshop.storage.tables import FenceCounter, Product, Purchase, PurchaseLine, StockEvent


def book(session: Session, order: Order, fence: int) -> Receipt:
    _refuse_repetition(session, order)
    sale = read_sale(session)
    at = datetime.now(UTC)
    _check_sale(session, order, sale, at)
    prices = [_take(session, line, fence) for line in order.lines]
    purchase = Purchase(
        id=order.id,
        user_id=order.user_id,
        sale_id=sale.id,
        price_minor=sum(
            price * line.quantity for price, line in zip(prices, order.lines, strict=True)
        ),
        fence=fence,
        idempotency_key=order.idempotency_key,
        fingerprint=order.fingerprint,
        created_at=at,
    )
    session.add(purchase)
    session.flush()
    for line, price in zip(order.lines, prices, strict=True):
        session.add(
            PurchaseLine(
                purchase_id=order.id,
                product_id=line.product_id,
                quantity=line.quantity,
                unit_price_minor=price,
            )
        )
        purchase.sequence = append_event(
            session, line.product_id, -line.quantity, "sold", f"user:{order.user_id}", order.id
        )
    session.flush()
    return as_receipt(purchase, order.lines)


def _refuse_repetition(session: Session, order: Order) -> None:
    receipt = find(session, order.id)
    if receipt is None and order.idempotency_key is not None:
        receipt = find_by_key(session, order.user_id, order.idempotency_key)
    if receipt is None:
        return
    if receipt.fingerprint != order.fingerprint:
        raise KeyReused(order.idempotency_key or str(order.id))
    raise AlreadyBooked(receipt)


def _check_sale(session: Session, order: Order, sale: Sale, at: datetime) -> None:
    if not sale.opens_at <= at < sale.closes_at:
        raise SaleClosed
    bought = read_bought(session, sale.id, order.user_id).get(order.user_id, 0)
    if bought + sum(line.quantity for line in order.lines) > sale.limit_per_user:
        raise LimitReached(sale.limit_per_user, bought)


def _take(session: Session, line: Line, fence: int) -> int:
    """Take a line's units out of the stock, or refuse; returns the unit price."""
    taken = session.execute(
        update(Product)
        .where(
            col(Product.id) == line.product_id,
            col(Product.stock_left) >= line.quantity,
            col(Product.newest_fence) <= fence,
        )
        .values(stock_left=col(Product.stock_left) - line.quantity, newest_fence=fence)
        .returning(col(Product.price_minor))
    ).scalar_one_or_none()
    if taken is not None:
        return int(taken)
    product = session.get(Product, line.product_id, populate_existing=True)
    if product is None:
        raise NoSuchProduct(line.product_id)
    if product.newest_fence > fence:
        raise StaleFence(line.product_id, fence, product.newest_fence)
    raise SoldOut(line.product_id, product.stock_left)


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

    The caller has updated the product's row in the same transaction, so that the events of
    one product follow each other in the order of their commits.
    """
    newest = (
        select(StockEvent.hash)
        .where(StockEvent.product_id == product_id)
        .order_by(desc(StockEvent.id))
        .limit(1)
    )
    previous = session.exec(newest).first() or ""
    at = datetime.now(UTC)
    content = f"{previous}|{product_id}|{delta}|{reason}|{actor}|{purchase_id}|{at.isoformat()}"
    event = StockEvent(
        product_id=product_id,
        delta=delta,
        reason=reason,
        actor=actor,
        purchase_id=purchase_id,
        created_at=at,
        previous_hash=previous,
        hash=hashlib.sha256(content.encode()).hexdigest(),
    )
    session.add(event)
    session.flush()
    assert event.id is not None
    return event.id
