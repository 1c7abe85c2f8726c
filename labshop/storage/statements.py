"""The statements of a sale, in SQL as both databases read it.

The problem: an expression language is pleasant, and costs more than the database does, once orders
come by the hundred. The idea: the eight statements that every group of orders needs are written
out, and given to the driver itself. What it complains of is told in the library's words, so an
outage looks as everywhere else.

What the two databases store differently, an order's id and a moment, is translated here and
nowhere else.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from labshop.shop.domain import Order, Receipt, Sale
from labshop.storage.changes import EventRow

SALE = (
    "SELECT id, name, opens_at, closes_at, limit_per_user, "
    "(SELECT coalesce(max(id), 0) FROM stock_event) FROM sale ORDER BY id LIMIT 1"
)
STOCK = (
    "SELECT id, price_minor, stock_left, newest_fence, newest_hash FROM product WHERE id IN ({})"
)
BOUGHT = (
    "SELECT user_id, SUM(units) FROM purchase "
    "WHERE user_id IN ({}) AND sale_id = ? AND status = 'confirmed' GROUP BY user_id"
)
SAME_ID = "SELECT count(*) FROM purchase WHERE id IN ({})"
SAME_KEY = (
    "SELECT count(*) FROM (VALUES {}) AS wanted CROSS JOIN purchase "
    "WHERE user_id = column1 AND idempotency_key = column2"
)
"""A join, for SQLite answers `(user_id, idempotency_key) IN (VALUES …)` by a look at all orders."""
ADD_PURCHASE = (
    "INSERT INTO purchase (id, user_id, sale_id, status, units, price_minor, fence, sequence, "
    "idempotency_key, fingerprint, created_at) VALUES (?, ?, ?, 'confirmed', ?, ?, ?, ?, ?, ?, ?)"
)
ADD_LINE = (
    "INSERT INTO purchase_line (purchase_id, product_id, quantity, unit_price_minor) "
    "VALUES (?, ?, ?, ?)"
)
ADD_EVENT = (
    "INSERT INTO stock_event (id, product_id, delta, reason, actor, purchase_id, created_at, "
    "previous_hash, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
TAKE = (
    "UPDATE product SET stock_left = stock_left - ?, newest_fence = ?, newest_hash = ? "
    "WHERE id = ? AND stock_left >= ?"
)


@dataclass
class Stock:
    """A product while a group is decided; `taken` counts the units that the group has sold."""

    price_minor: int
    left: int
    newest_fence: int
    newest_hash: str
    taken: int = 0


class Statements:
    """The statements on one connection, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._cursor = connection.connection.cursor()
        self._dialect = connection.dialect
        self._is_sqlite = connection.dialect.name == "sqlite"

    def sale(self) -> tuple[Sale, int]:
        """The one sale of this shop, and the number of the ledger's newest event."""
        [(number, name, opens_at, closes_at, limit, newest_event)] = self._rows(SALE)
        sale = Sale(number, name, self._moment(opens_at), self._moment(closes_at), limit)
        return sale, int(newest_event)

    def stock(self, products: Iterable[int]) -> dict[int, Stock]:
        """What is known of some products."""
        rows = self._rows(STOCK, sorted(set(products)))
        return {product: Stock(*rest) for product, *rest in rows}

    def bought(self, users: Iterable[int], sale_id: int) -> dict[int, int]:
        """Units that some users have bought in a sale."""
        return {user: int(units) for user, units in self._rows(BOUGHT, sorted(set(users)), sale_id)}

    def have_come_before(self, orders: Sequence[Order]) -> bool:
        """Whether any of these orders, or a user's key of any, is in the ledger already."""
        [(count,)] = self._rows(SAME_ID, [self._id(order.id) for order in orders])
        keys = [(it.user_id, it.idempotency_key) for it in orders if it.idempotency_key is not None]
        if not count and keys:
            pairs = ", ".join(("(?, ?)",) * len(keys))
            flat = tuple(part for pair in keys for part in pair)
            [(count,)] = self._execute(SAME_KEY.format(pairs), flat)
        return bool(count)

    def add(
        self,
        receipts: Sequence[Receipt],
        sale_id: int,
        prices: Mapping[int, int],
        events: Iterable[EventRow],
    ) -> None:
        """Add orders of one moment, their lines and their events."""
        at = self._stored(receipts[0].created_at)
        ids: dict[UUID | None, object] = {it.order_id: self._id(it.order_id) for it in receipts}
        self.send(
            ADD_PURCHASE,
            [
                (
                    ids[it.order_id],
                    it.user_id,
                    sale_id,
                    sum(line.quantity for line in it.lines),
                    it.price_minor,
                    it.fence,
                    it.sequence,
                    it.idempotency_key,
                    it.fingerprint,
                    at,
                )
                for it in receipts
            ],
            many=True,
        )
        self.send(
            ADD_LINE,
            [
                (ids[it.order_id], line.product_id, line.quantity, prices[line.product_id])
                for it in receipts
                for line in it.lines
            ],
            many=True,
        )
        self.send(
            ADD_EVENT,
            [
                (
                    event["id"],
                    event["product_id"],
                    event["delta"],
                    event["reason"],
                    event["actor"],
                    ids[event["purchase_id"]],
                    at,
                    event["previous_hash"],
                    event["hash"],
                )
                for event in events
            ],
            many=True,
        )

    def take(self, stocks: Mapping[int, Stock]) -> bool:
        """Take what was sold out of the products' stock; False if it is not there."""
        sold = [
            (stock.taken, stock.newest_fence, stock.newest_hash, product_id, stock.taken)
            for product_id, stock in stocks.items()
            if stock.taken
        ]
        self.send(TAKE, sold, many=True)
        return bool(self._cursor.rowcount == len(sold))

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What the body has written is undone where it fails; the rest of the transaction stands.

        Raises:
            DBAPIError: what the driver complained of, in the library's words.
        """
        driver = self._dialect.loaded_dbapi
        try:
            self.send("SAVEPOINT booking")
            try:
                yield
            except BaseException:
                self.send("ROLLBACK TO SAVEPOINT booking")
                raise
            finally:
                self.send("RELEASE SAVEPOINT booking")
        except driver.Error as error:
            raise DBAPIError.instance(
                "", None, error, driver.Error, dialect=self._dialect
            ) from error

    def send(self, sql: str, values: Sequence[Any] = (), *, many: bool = False) -> None:
        """Give a statement to the driver; of `many` rows, each by it."""
        text = sql if self._is_sqlite else sql.replace("?", "%s")
        (self._cursor.executemany if many else self._cursor.execute)(text, values)

    def _rows(self, sql: str, listed: Sequence[Any] = (), *more: Any) -> Sequence[Any]:
        return self._execute(sql.format(", ".join("?" * len(listed))), (*listed, *more))

    def _execute(self, sql: str, values: tuple[Any, ...]) -> Sequence[Any]:
        self.send(sql, values)
        return self._cursor.fetchall()

    def _id(self, value: UUID) -> object:
        return value.hex if self._is_sqlite else value

    def _stored(self, moment: datetime) -> object:
        return moment.strftime("%Y-%m-%d %H:%M:%S.%f") if self._is_sqlite else moment

    def _moment(self, stored: Any) -> datetime:
        told = datetime.fromisoformat(stored) if self._is_sqlite else stored
        return told.replace(tzinfo=UTC) if told.tzinfo is None else told
