"""What the ledger holds, read within one transaction."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import func, literal_column, text
from sqlmodel import Session, col, desc, select

from labshop.shop.domain import Line, Receipt, Sale
from labshop.storage.catalog import read_sale
from labshop.storage.tables import Product, Purchase, PurchaseLine, RevokedToken, StockEvent


@dataclass(frozen=True)
class Snapshot:
    """What the ledger holds at one moment: enough to build the gate anew.

    `sequence` is the newest stock event it includes; `left` maps product to units; `bought`
    maps user to units in this sale; `revoked` maps tokens that were taken back to their ends.
    """

    sale: Sale
    sequence: int
    left: dict[int, int]
    bought: dict[int, int]
    revoked: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True)
class Audit:
    """Everything that a judge asks the ledger for, read at one moment.

    `left` maps product to units; `orders` are all receipts, in the order of their sequence.
    """

    left: dict[int, int]
    orders: tuple[Receipt, ...]


def read_audit(session: Session) -> Audit:
    products = session.exec(select(Product.id, Product.stock_left)).all()
    left = {product_id: units for product_id, units in products if product_id is not None}
    lines = lines_of(session, None)
    purchases = session.exec(select(Purchase).order_by(col(Purchase.sequence))).all()
    return Audit(left, tuple(as_receipt(it, lines[it.id]) for it in purchases))


def lines_of(session: Session, order_ids: Sequence[UUID] | None) -> Mapping[UUID, tuple[Line, ...]]:
    """The lines of some orders, or of all, sorted by product."""
    columns = (PurchaseLine.purchase_id, PurchaseLine.product_id, PurchaseLine.quantity)
    rows = select(*columns).order_by(col(PurchaseLine.product_id))
    if order_ids is not None:
        if not order_ids:
            return {}
        rows = rows.where(col(PurchaseLine.purchase_id).in_(order_ids))
    lines: dict[UUID, tuple[Line, ...]] = defaultdict(tuple)
    for order_id, product_id, quantity in session.exec(rows):
        lines[order_id] += (Line(product_id, quantity),)
    return lines


def read_snapshot(session: Session) -> Snapshot:
    sale = read_sale(session)
    sequence = session.exec(select(func.max(StockEvent.id))).one() or 0
    products = session.exec(select(Product.id, Product.stock_left)).all()
    left = {product_id: units for product_id, units in products if product_id is not None}
    tokens = session.exec(select(RevokedToken.token_id, RevokedToken.expires_at)).all()
    revoked = {token_id: ends.replace(tzinfo=UTC) for token_id, ends in tokens}
    return Snapshot(sale, sequence, left, _read_bought(session, sale.id), revoked)


def _read_bought(session: Session, sale_id: int) -> dict[int, int]:
    """Units bought per user in a sale."""
    buyer = (col(Purchase.user_id) + literal_column("0")).label("buyer")
    units = (
        # The sum hides the users from SQLite's planner: by their index it would fetch a million
        # orders in an order that nobody wrote them in, and take several times as long.
        select(buyer, func.sum(Purchase.units))
        .where(Purchase.sale_id == sale_id, Purchase.status == "confirmed")
        .group_by("buyer")
    )
    # On the bare connection: what a session adds to each row takes longer than the rest.
    return {user_id: int(sold) for user_id, sold in session.connection().execute(units)}


def _receipt(session: Session, purchase: Purchase | None) -> Receipt | None:
    if purchase is None:
        return None
    lines = session.exec(
        select(PurchaseLine.product_id, PurchaseLine.quantity)
        .where(PurchaseLine.purchase_id == purchase.id)
        .order_by(col(PurchaseLine.product_id))
    ).all()
    return as_receipt(purchase, tuple(Line(*line) for line in lines))


def read_cancelled(session: Session, sequence: int) -> list[tuple[Receipt, int]]:
    """Orders cancelled after an event, with the sequence of the cancellation, in its order."""
    cancelled = (
        select(StockEvent.purchase_id, func.max(StockEvent.id))
        # Word for word as their index has it: a database need not compare it with a parameter.
        .where(col(StockEvent.id) > sequence, text("reason = 'cancelled'"))
        .group_by(col(StockEvent.purchase_id))
        .order_by(func.max(StockEvent.id))
    )
    rows = session.exec(cancelled).all()
    found = ((find(session, order_id), newest or 0) for order_id, newest in rows)
    return [(receipt, newest) for receipt, newest in found if receipt is not None]


def read_sold(session: Session, product_id: int) -> int:
    """Units of a product in orders that stand."""
    units = (
        select(func.coalesce(func.sum(PurchaseLine.quantity), 0))
        .join(Purchase, col(Purchase.id) == col(PurchaseLine.purchase_id))
        .where(PurchaseLine.product_id == product_id, Purchase.status == "confirmed")
    )
    return int(session.exec(units).one())


def find(session: Session, order_id: UUID | None) -> Receipt | None:
    return _receipt(session, session.get(Purchase, order_id, populate_existing=True))


def find_by_key(session: Session, user_id: int, key: str) -> Receipt | None:
    booked = select(Purchase).where(Purchase.user_id == user_id, Purchase.idempotency_key == key)
    return _receipt(session, session.exec(booked).first())


def read_orders(session: Session, user_id: int, limit: int, offset: int) -> list[Receipt]:
    newest_first = (
        select(Purchase)
        .where(Purchase.user_id == user_id)
        .order_by(desc(Purchase.created_at), desc(Purchase.id))
        .limit(limit)
        .offset(offset)
    )
    receipts = (_receipt(session, purchase) for purchase in session.exec(newest_first).all())
    return [receipt for receipt in receipts if receipt is not None]


def as_receipt(purchase: Purchase, lines: tuple[Line, ...]) -> Receipt:
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
