"""Sales, a group at a time: what is read once, decided in order, and written together.

The problem: an order needs a look at its product, its buyer and its key, and four rows; one by one,
that is a dozen statements, and the database becomes the bottleneck of the sale. The idea: whoever
writes the ledger is alone, so nothing changes between reading and writing. A group of orders is
decided in memory, each on what the ones before it left, and costs eight statements in all.

The rules still stand in SQL: the update of a product names the units that must be there, and the
table forbids a negative stock.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import ColumnElement, or_, select
from sqlmodel import Session, col

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import (
    AlreadyBooked,
    KeyReused,
    LimitReached,
    NoSuchProduct,
    Refused,
    SaleClosed,
    SoldOut,
    StaleFence,
    Unavailable,
)
from labshop.storage.changes import EventRow, next_event
from labshop.storage.database import UNWRITABLE, outage_reason
from labshop.storage.records import as_receipt, lines_of
from labshop.storage.statements import Statements, Stock
from labshop.storage.tables import Purchase


@dataclass(frozen=True)
class Booking:
    """An order to be booked, and the fencing token of the lease under which it came; 0 for none."""

    order: Order
    fence: int


def book(session: Session, bookings: Sequence[Booking]) -> list[Receipt | Refused]:
    """Book a group of orders, each if stock, limit and fence allow it.

    Returns:
        For each its receipt, or why it was refused; `Unavailable` if SQL itself refused it.
    """
    statements = Statements(session.connection())
    try:
        with statements.savepoint():
            group = _Group(session, statements, [booking.order for booking in bookings])
            ends = [group.decide(booking.order, booking.fence) for booking in bookings]
            group.write()
            return ends
    except UNWRITABLE as clash:
        # A row that an order refers to is gone, or PostgreSQL cannot hold its key: that is nobody
        # else's fault.
        if len(bookings) == 1:
            return [Unavailable("ledger", outage_reason(clash))]
        return [end for booking in bookings for end in book(session, [booking])]


class _Group:
    """What a group of orders depends on, and what it changes."""

    def __init__(self, session: Session, statements: Statements, orders: Sequence[Order]) -> None:
        self._sql = statements
        self._at = datetime.now(UTC)
        self._sale, self._number = self._sql.sale()
        self._stock = self._sql.stock(line.product_id for it in orders for line in it.lines)
        self._bought = self._sql.bought((order.user_id for order in orders), self._sale.id)
        self._by_id: dict[UUID, Receipt] = {}
        self._by_key: dict[tuple[int, str], Receipt] = {}
        if self._sql.have_come_before(orders):
            for receipt in _earlier(session, orders):
                self._remember(receipt)
        self._receipts: list[Receipt] = []
        self._events: list[EventRow] = []

    def decide(self, order: Order, fence: int) -> Receipt | Refused:
        """Book an order in memory, or say why not."""
        try:
            self._refuse_repetition(order)
            self._check_sale(order)
            for line in order.lines:
                self._check_stock(line.product_id, line.quantity, fence)
        except Refused as refusal:
            return refusal
        return self._book(order, fence)

    def write(self) -> None:
        """Write what was decided."""
        if not self._receipts:
            return
        prices = {product_id: stock.price_minor for product_id, stock in self._stock.items()}
        self._sql.add(self._receipts, self._sale.id, prices, self._events)
        taken = self._sql.take(self._stock)
        assert taken, "somebody else writes the stock"

    def _refuse_repetition(self, order: Order) -> None:
        key = order.idempotency_key
        receipt = self._by_id.get(order.id)
        if receipt is None and key is not None:
            receipt = self._by_key.get((order.user_id, key))
        if receipt is None:
            return
        if receipt.fingerprint != order.fingerprint:
            raise KeyReused(key or str(order.id))
        raise AlreadyBooked(receipt)

    def _check_sale(self, order: Order) -> None:
        if not self._sale.opens_at <= self._at < self._sale.closes_at:
            raise SaleClosed
        bought = self._bought.get(order.user_id, 0)
        if bought + sum(line.quantity for line in order.lines) > self._sale.limit_per_user:
            raise LimitReached(self._sale.limit_per_user, bought)

    def _check_stock(self, product_id: int, quantity: int, fence: int) -> None:
        stock = self._stock.get(product_id)
        if stock is None:
            raise NoSuchProduct(product_id)
        if fence and stock.newest_fence > fence:
            raise StaleFence(product_id, fence, stock.newest_fence)
        if stock.left < quantity:
            raise SoldOut(product_id, stock.left)

    def _book(self, order: Order, fence: int) -> Receipt:
        price_minor = units = 0
        for line in order.lines:
            stock = self._stock[line.product_id]
            stock.left -= line.quantity
            stock.taken += line.quantity
            stock.newest_fence = max(stock.newest_fence, fence)
            price_minor += stock.price_minor * line.quantity
            units += line.quantity
            self._append_event(line.product_id, stock, -line.quantity, order)
        receipt = Receipt(
            order_id=order.id,
            user_id=order.user_id,
            lines=order.lines,
            price_minor=price_minor,
            fence=fence,
            sequence=self._number,
            status="confirmed",
            created_at=self._at,
            idempotency_key=order.idempotency_key,
            fingerprint=order.fingerprint,
        )
        self._receipts.append(receipt)
        self._remember(receipt)
        self._bought[order.user_id] = self._bought.get(order.user_id, 0) + units
        return receipt

    def _append_event(self, product_id: int, stock: Stock, delta: int, order: Order) -> None:
        self._number += 1
        event = next_event(
            self._number,
            stock.newest_hash,
            product_id=product_id,
            delta=delta,
            reason="sold",
            actor=f"user:{order.user_id}",
            purchase_id=order.id,
            at=self._at,
        )
        stock.newest_hash = event["hash"]
        self._events.append(event)

    def _remember(self, receipt: Receipt) -> None:
        self._by_id[receipt.order_id] = receipt
        if receipt.idempotency_key is not None:
            self._by_key[receipt.user_id, receipt.idempotency_key] = receipt


def _earlier(session: Session, orders: Sequence[Order]) -> Iterator[Receipt]:
    """Orders in the ledger with the id, or the user and the key, of one of these."""
    same: list[ColumnElement[bool]] = [col(Purchase.id).in_([order.id for order in orders])]
    keyed = [order for order in orders if order.idempotency_key is not None]
    if keyed:
        # A few too many: of one user with the key of another.
        users = col(Purchase.user_id).in_({order.user_id for order in keyed})
        same.append(users & col(Purchase.idempotency_key).in_({it.idempotency_key for it in keyed}))
    found = session.execute(select(Purchase).where(or_(*same))).scalars().all()
    lines = lines_of(session, [purchase.id for purchase in found])
    for purchase in found:
        yield as_receipt(purchase, lines[purchase.id])
