"""The ledger: orders, and the stock events from which the stock follows.

Every sale is one transaction: a conditional update per product (enough stock, and a fencing
token not older than the newest seen), the order, its lines, and one event per line. If any
of them refuses, none of them happened. No lost lock, no wiped Redis and no jumped clock
upstream can therefore sell a unit twice.

A receipt is given only after its transaction is on disk.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

import anyio.to_thread
from sqlalchemy import func
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
    Unknown,
)
from labshop.storage.catalog import read_sale
from labshop.storage.database import Database
from labshop.storage.tables import Product, Purchase, PurchaseLine, StockEvent
from labshop.storage.writer import GroupWriter, OutcomeUnknown

T = TypeVar("T")


@dataclass(frozen=True)
class Snapshot:
    """What the ledger holds at one moment: enough to build the gate anew.

    `sequence` is the newest stock event it includes; `left` maps product to units; `bought`
    maps user to units in this sale.
    """

    sale: Sale
    sequence: int
    left: dict[int, int]
    bought: dict[int, int]


class SqlLedger:
    """The ledger on an SQL database."""

    def __init__(self, database: Database, writer: GroupWriter) -> None:
        self._database = database
        self._writer = writer
        self.contradicted = False
        """True after it refused what the gate had let through: one of them is behind."""

    async def record(self, order: Order, *, fence: int) -> Receipt:
        """Book an order durably.

        Args:
            order: what is bought.
            fence: the fencing token of the lease under which it is bought; 0 for none.

        Raises:
            SoldOut, LimitReached, SaleClosed, NoSuchProduct, StaleFence, AlreadyBooked,
            KeyReused, Unavailable: nothing was booked.
            Unknown: nobody knows; ask `find`.
        """
        try:
            return await self._writer.submit(lambda session: _book(session, order, fence))
        except (SoldOut, LimitReached):
            self.contradicted = True
            raise
        except OutcomeUnknown as doubt:
            raise Unknown(order.id, str(doubt)) from doubt

    async def cancel(self, order_id: UUID, *, user_id: int, actor: str) -> tuple[Receipt, int]:
        """Cancel a user's order, and give its units back to the stock, once.

        Returns:
            The receipt, and the sequence of the returning events; 0 if it was cancelled before.

        Raises:
            NoSuchOrder: this user has none by that id.
            Unavailable: nothing was changed. Unknown: ask `find`.
        """
        try:
            return await self._writer.submit(
                lambda session: _cancel(session, order_id, user_id, actor)
            )
        except OutcomeUnknown as doubt:
            raise Unknown(order_id, str(doubt)) from doubt

    async def find(self, order_id: UUID) -> Receipt | None:
        """The receipt of an order, or None if it was never booked.

        Raises:
            Unavailable: the ledger cannot be asked.
        """
        return await self._read(lambda session: _receipt(session, session.get(Purchase, order_id)))

    async def find_by_key(self, user_id: int, key: str) -> Receipt | None:
        """The receipt of a user's idempotency key, or None."""
        return await self._read(lambda session: _receipt(session, _by_key(session, user_id, key)))

    async def orders_of(self, user_id: int, *, limit: int, offset: int) -> list[Receipt]:
        """A user's orders, newest first."""
        return await self._read(lambda session: _orders_of(session, user_id, limit, offset))

    async def snapshot(self) -> Snapshot:
        """What the ledger holds at this moment, read in one transaction."""
        return await self._read(_snapshot)

    async def _read(self, work: Callable[[Session], T]) -> T:
        def read() -> T:
            with self._database.reading() as session:
                return work(session)

        return await anyio.to_thread.run_sync(read)


def _book(session: Session, order: Order, fence: int) -> Receipt:
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
    return _to_receipt(purchase, order.lines)


def _refuse_repetition(session: Session, order: Order) -> None:
    booked = session.get(Purchase, order.id)
    if booked is None and order.idempotency_key is not None:
        booked = _by_key(session, order.user_id, order.idempotency_key)
    receipt = _receipt(session, booked)
    if receipt is None:
        return
    if receipt.fingerprint != order.fingerprint:
        raise KeyReused(order.idempotency_key or str(order.id))
    raise AlreadyBooked(receipt)


def _check_sale(session: Session, order: Order, sale: Sale, at: datetime) -> None:
    if not sale.opens_at <= at < sale.closes_at:
        raise SaleClosed
    bought = _bought(session, sale.id, order.user_id).get(order.user_id, 0)
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


def _cancel(session: Session, order_id: UUID, user_id: int, actor: str) -> tuple[Receipt, int]:
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
    receipt = _receipt(session, session.get(Purchase, order_id, populate_existing=True))
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


def _snapshot(session: Session) -> Snapshot:
    sale = read_sale(session)
    sequence = session.exec(select(func.max(StockEvent.id))).one() or 0
    products = session.exec(select(Product.id, Product.stock_left)).all()
    left = {product_id: units for product_id, units in products if product_id is not None}
    return Snapshot(sale, sequence, left, _bought(session, sale.id))


def _bought(session: Session, sale_id: int, user_id: int | None = None) -> dict[int, int]:
    """Units bought per user in a sale: of all users, or of one."""
    units = (
        select(Purchase.user_id, func.sum(PurchaseLine.quantity))
        .join(PurchaseLine, col(PurchaseLine.purchase_id) == col(Purchase.id))
        .where(Purchase.sale_id == sale_id, Purchase.status == "confirmed")
        .group_by(col(Purchase.user_id))
    )
    if user_id is not None:
        units = units.where(Purchase.user_id == user_id)
    return {buyer: int(total) for buyer, total in session.exec(units)}


def _by_key(session: Session, user_id: int, key: str) -> Purchase | None:
    return session.exec(
        select(Purchase).where(Purchase.user_id == user_id, Purchase.idempotency_key == key)
    ).first()


def _orders_of(session: Session, user_id: int, limit: int, offset: int) -> list[Receipt]:
    newest_first = (
        select(Purchase)
        .where(Purchase.user_id == user_id)
        .order_by(desc(Purchase.created_at), desc(Purchase.id))
        .limit(limit)
        .offset(offset)
    )
    receipts = (_receipt(session, purchase) for purchase in session.exec(newest_first).all())
    return [receipt for receipt in receipts if receipt is not None]


def _receipt(session: Session, purchase: Purchase | None) -> Receipt | None:
    if purchase is None:
        return None
    lines = session.exec(
        select(PurchaseLine.product_id, PurchaseLine.quantity)
        .where(PurchaseLine.purchase_id == purchase.id)
        .order_by(col(PurchaseLine.product_id))
    ).all()
    return _to_receipt(purchase, tuple(Line(*line) for line in lines))


def _to_receipt(purchase: Purchase, lines: tuple[Line, ...]) -> Receipt:
    return Receipt(
        order_id=purchase.id,
        user_id=purchase.user_id,
        lines=lines,
        price_minor=purchase.price_minor,
        fence=purchase.fence,
        sequence=purchase.sequence,
        status="cancelled" if purchase.status == "cancelled" else "confirmed",
        created_at=purchase.created_at.replace(tzinfo=UTC),
        idempotency_key=purchase.idempotency_key,
        fingerprint=purchase.fingerprint,
    )
