"""A ledger without a guard: the control of every trial.

The shop's own ledger refuses what the stock or a fence forbids, so no strategy oversells on it.
To see what a strategy is worth by itself, the guard is removed: this ledger books whatever it is
told, for whomever, under any fence and as often as it is asked. One rule is left to it, the units
that one user may buy, for a strategy must cope with a ledger that says no.

It is a real SQL database in a file. It does not promise anything else.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from labshop.shop.domain import Line, Order, Receipt, Sale
from labshop.shop.errors import LimitReached, Unavailable, Unknown
from labshop.storage.records import Audit, Snapshot

T = TypeVar("T")

TABLE = """
CREATE TABLE IF NOT EXISTS orders (
    sequence INTEGER PRIMARY KEY, id TEXT, user INTEGER, key TEXT, lines TEXT, units INTEGER,
    fence INTEGER, at TEXT
)
"""


class UnguardedLedger:
    """Books whatever it is told.

    Args:
        path: the database file; made when missing.
        stock: units on sale, by product.
        limit_per_user: units that one user may buy.
        timeout_ms: how long a transaction waits for the database.
    """

    def __init__(
        self, path: Path, stock: Mapping[int, int], *, limit_per_user: int, timeout_ms: int
    ) -> None:
        self._path = path
        self._stock = dict(stock)
        self._limit = limit_per_user
        self._fences = count(1)
        self._timeout_s = timeout_ms / 1_000
        # One thread, so that the commits have an order of their own.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="unguarded-ledger")
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(TABLE)

    async def record(self, order: Order, *, fence: int) -> Receipt:
        """Book an order, whatever the stock says.

        Raises:
            LimitReached: the user has bought enough. Unavailable: nothing was booked.
            Unknown: the commit was sent, and its end was not seen.
        """
        return await self._run(lambda database: self._record(database, order, fence))

    async def next_fence(self, key: str) -> int:
        """A number greater than all before."""
        return next(self._fences)

    async def audit(self) -> Audit:
        """All orders; what is left is the stock without them, be it negative."""
        receipts = await self._run(_read)
        left = dict(self._stock)
        for receipt in receipts:
            for line in receipt.lines:
                left[line.product_id] = left.get(line.product_id, 0) - line.quantity
        return Audit(left, tuple(receipts))

    async def snapshot(self) -> Snapshot:
        """What the gate is built from."""
        audit = await self.audit()
        bought: dict[int, int] = {}
        for receipt in audit.orders:
            units = sum(line.quantity for line in receipt.lines)
            bought[receipt.user_id] = bought.get(receipt.user_id, 0) + units
        opens, closes = datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
        sale = Sale(1, "trial", opens, closes, self._limit)
        newest = max((receipt.sequence for receipt in audit.orders), default=0)
        left = {product: max(units, 0) for product, units in audit.left.items()}
        return Snapshot(sale, newest, left, bought)

    def add_stock(self, product_id: int, units: int) -> None:
        """Put more units on sale."""
        self._stock[product_id] = self._stock.get(product_id, 0) + units

    def close(self) -> None:
        """End its thread."""
        self._thread.shutdown()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def transact() -> T:
            with closing(sqlite3.connect(self._path, self._timeout_s)) as database:
                return work(database)

        try:
            return await asyncio.wrap_future(self._thread.submit(transact))
        except sqlite3.OperationalError as error:
            raise Unavailable("ledger", str(error)) from error

    def _record(self, database: sqlite3.Connection, order: Order, fence: int) -> Receipt:
        database.isolation_level = None
        database.execute("BEGIN IMMEDIATE")
        of_user = "SELECT coalesce(sum(units), 0) FROM orders WHERE user = ?"
        [bought] = database.execute(of_user, (order.user_id,)).fetchone()
        units = sum(line.quantity for line in order.lines)
        if bought + units > self._limit:
            raise LimitReached(self._limit, bought)
        at = datetime.now(UTC)
        lines = json.dumps([(line.product_id, line.quantity) for line in order.lines])
        row = (str(order.id), order.user_id, order.idempotency_key, lines, units, fence)
        added = "INSERT INTO orders (id, user, key, lines, units, fence, at) VALUES (?,?,?,?,?,?,?)"
        sequence = database.execute(added, (*row, at.isoformat())).lastrowid or 0
        try:
            database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise Unknown(order.id, str(error)) from error
        return _receipt((sequence, *row, at.isoformat()))


def _read(database: sqlite3.Connection) -> list[Receipt]:
    every = "SELECT sequence, id, user, key, lines, units, fence, at FROM orders ORDER BY sequence"
    return [_receipt(row) for row in database.execute(every)]


def _receipt(row: tuple[int, str, int, str | None, str, int, int, str]) -> Receipt:
    sequence, order_id, user, key, lines, _, fence, at = row
    return Receipt(
        order_id=UUID(order_id),
        user_id=user,
        lines=tuple(Line(product, units) for product, units in json.loads(lines)),
        price_minor=0,
        fence=fence,
        sequence=sequence,
        status="confirmed",
        created_at=datetime.fromisoformat(at),
        idempotency_key=key,
    )
