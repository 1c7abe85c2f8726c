"""What the ledger has booked and cancelled lately: the half of a comparison that SQL answers.

The problem: whoever compares the gate with the ledger must know of each order that is on its way
between the two, and cannot read a million orders for that. The idea: stock events are numbered in
the order of their commits, so what is new since the last look is everything beyond a number.

All that one of these functions reads is of one moment. None of them reads a whole table: products
come in pages, and users by their ids.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlmodel import Session, col, func, select

from labshop.shop.domain import Receipt
from labshop.storage.catalog import read_sale
from labshop.storage.records import as_receipt, lines_of
from labshop.storage.tables import Product, Purchase, PurchaseLine, StockEvent


@dataclass(frozen=True)
class Movement:
    """An order with news: booked or cancelled, and its first and newest event among the news."""

    receipt: Receipt
    first: int
    newest: int

    @property
    def units(self) -> int:
        """Units of all lines together."""
        return sum(line.quantity for line in self.receipt.lines)


@dataclass(frozen=True)
class News:
    """All that happened between two events.

    `movements` are in the order of their first event; `up_to` is the number of the last event that
    is looked at; with `is_all` the ledger had no newer one at that moment.
    """

    movements: tuple[Movement, ...]
    up_to: int
    is_all: bool


@dataclass(frozen=True)
class Stock:
    """What the ledger holds of some products and users, and which of them moved since an event."""

    left: dict[int, int]
    bought: dict[int, int]
    moved_products: frozenset[int]
    moved_users: frozenset[int]


def read_news(session: Session, after: int, limit: int) -> News:
    """Orders booked or cancelled after an event, from at most `limit` events."""
    rows = session.exec(
        select(StockEvent.id, StockEvent.purchase_id)
        .where(col(StockEvent.id) > after)
        .order_by(col(StockEvent.id))
        .limit(limit + 1)
    ).all()
    is_all, rows = len(rows) <= limit, rows[:limit]
    spans: dict[UUID, tuple[int, int]] = {}
    for number, order_id in rows:
        if order_id is not None and number is not None:
            first, _ = spans.get(order_id, (number, number))
            spans[order_id] = (first, number)
    purchases = session.exec(select(Purchase).where(col(Purchase.id).in_(spans))).all()
    lines = lines_of(session, list(spans))
    movements = [Movement(as_receipt(it, lines[it.id]), *spans[it.id]) for it in purchases]
    up_to = (rows[-1][0] or after) if rows else after
    return News(tuple(sorted(movements, key=lambda it: it.first)), up_to, is_all)


def read_product_page(session: Session, after: int, limit: int) -> list[int]:
    """Ids of the products that follow one, in ascending order."""
    following = select(Product.id).where(col(Product.id) > after).order_by(col(Product.id))
    return [number for number in session.exec(following.limit(limit)).all() if number is not None]


def read_stock(
    session: Session, products: Iterable[int], users: Iterable[int], since: int
) -> Stock:
    """What is left of products, what users have bought, and who has moved since an event."""
    # What moved comes first: the sooner this moment, the fewer have.
    moved: Sequence[tuple[int, int | None]] = session.exec(
        select(StockEvent.product_id, Purchase.user_id)
        .join(Purchase, col(Purchase.id) == col(StockEvent.purchase_id), isouter=True)
        .where(col(StockEvent.id) > since)
    ).all()
    left = session.exec(
        select(Product.id, Product.stock_left).where(col(Product.id).in_(set(products)))
    ).all()
    bought = session.exec(
        select(Purchase.user_id, func.sum(PurchaseLine.quantity))
        .join(PurchaseLine, col(PurchaseLine.purchase_id) == col(Purchase.id))
        .where(
            col(Purchase.user_id).in_(set(users)),
            Purchase.sale_id == read_sale(session).id,
            Purchase.status == "confirmed",
        )
        .group_by(col(Purchase.user_id))
    ).all()
    return Stock(
        left={product: units for product, units in left if product},
        bought={user: int(units) for user, units in bought},
        moved_products=frozenset(product for product, _ in moved),
        moved_users=frozenset(user for _, user in moved if user is not None),
    )
