"""The ledger's file, read by another program than the shop.

Whoever is judged by the ledger must not read it out: a wrong query of the shop's would hide a wrong
sale. So these few statements are of their own, on a connection that cannot write.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

_TIMEOUT_S = 10.0
_ORDERS = (
    "SELECT purchase.id, user_id, idempotency_key, status, fence, sequence, product_id, quantity "
    "FROM purchase LEFT JOIN purchase_line ON purchase_id = purchase.id "
    "WHERE sequence > ? ORDER BY sequence"
)


@dataclass(frozen=True)
class Books:
    """What the ledger's file holds at one moment, from one event on.

    `orders` are rows as an audit of `labshop.judge` has them; `newest` numbers the newest event.
    """

    left: dict[int, int]
    orders: list[dict[str, Any]]
    newest: int

    def sold(self, product: int) -> int:
        """Units of a product in orders that stand."""
        standing = (row["lines"] for row in self.orders if row["status"] == "confirmed")
        return sum(int(lines.get(str(product), 0)) for lines in standing)


def read_books(path: Path, after: int = 0) -> Books:
    """Read the ledger's stock, and the orders that are newer than an event."""
    with _reading(path) as reader:
        left = dict(reader.execute("SELECT id, stock_left FROM product").fetchall())
        rows: dict[str, dict[str, Any]] = {}
        for row in reader.execute(_ORDERS, (after,)):
            order, user, key, status, fence, sequence, product, quantity = row
            told = {"order": str(UUID(order)), "user": user, "key": key, "lines": {}}
            told |= {"status": status, "fence": fence, "sequence": sequence}
            lines = rows.setdefault(order, told)["lines"]
            if product is not None:
                lines[str(product)] = quantity
        return Books(left, list(rows.values()), _newest(reader))


def newest_event(path: Path) -> int:
    """The number of the ledger's newest stock event."""
    with _reading(path) as reader:
        return _newest(reader)


def _newest(reader: sqlite3.Connection) -> int:
    [newest] = reader.execute("SELECT coalesce(max(id), 0) FROM stock_event").fetchone()
    return int(newest)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection within one transaction, so that all that is read is of one moment."""
    uri = f"file:{quote(str(path))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=_TIMEOUT_S)) as reader:
        reader.execute("BEGIN")
        yield reader
