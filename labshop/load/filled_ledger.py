"""A ledger with a past: many products, and many orders of many users, in seconds.

The problem: what a purchase costs in a shop that has sold a million times can only be seen in such
a shop, and to sell a million times takes half an hour. The idea: the rows are written by SQL
itself; only the chains of hashes need Python. The orders of one user lie as far from each other as
those of a real one, and carry keys, as those of a careful client do.

SQLite only. The stock is set, and no event tells of it; whoever has a gate builds it anew.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from uuid import UUID

from sqlmodel import Session

from labshop.storage.changes import next_event
from labshop.storage.database import Database
from labshop.storage.statements import ADD_EVENT

BATCH = 50_000
CACHE_KIB = 200_000
"""Without it, SQLite writes the same pages of an index out again and again."""
PRICE_MINOR = 1_000
FIRST_ORDER = "01980000000070008"
"""How the orders' ids begin: as UUIDs of version 7 do, like all that the shop gives out."""
AT = datetime(2026, 11, 27, tzinfo=UTC)
STORED_AT = AT.strftime("%Y-%m-%d %H:%M:%S.%f")

NUMBERS = """
WITH RECURSIVE number(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM number WHERE n + 1 < :end)
"""
USERS = """
INSERT INTO user_account (id, name, password_hash, role, created_at)
SELECT n, 'buyer-' || n, '!', 'buyer', :at FROM number
"""
PRODUCTS = """
INSERT INTO product (id, name, price_minor, stock_left, newest_fence, newest_hash)
SELECT n, 'Product ' || n, :price, 0, 0, '' FROM number
"""
PURCHASES = """
INSERT INTO purchase (id, user_id, sale_id, status, units, price_minor, fence, sequence,
                      idempotency_key, fingerprint, created_at)
SELECT :id || printf('%015x', n), :first_user + n % :users, 1, 'confirmed', 1, :price, 0,
       :first_event + n, 'order-' || n, 1 + n % :products || 'x1', :at FROM number
"""
LINES = """
INSERT INTO purchase_line (purchase_id, product_id, quantity, unit_price_minor)
SELECT :id || printf('%015x', n), 1 + n % :products, 1, :price FROM number
"""


def add_users(database: Database, count: int) -> range:
    """Add users without a password; returns their ids."""
    with database.writing() as session:
        first = _next_id(session, "user_account")
        _number(session, USERS, first, first + count, at=STORED_AT)
        session.commit()
    return range(first, first + count)


def add_products(database: Database, up_to: int, units: int) -> None:
    """Have products with the ids from 1 to `up_to`, each with so many units."""
    with database.writing() as session:
        first = _next_id(session, "product")
        if first <= up_to:
            _number(session, PRODUCTS, first, up_to + 1, price=PRICE_MINOR)
        session.connection().exec_driver_sql("UPDATE product SET stock_left = ?", (units,))
        session.commit()


def add_orders(database: Database, count: int, *, users: range, products: int) -> None:
    """Add orders of one unit, by the users in turns, of the products in turns.

    Args:
        database: with these users and products, and none of these orders yet.
        count: of the orders.
        users: ids.
        products: those with the ids from 1 to this number; what they have left stays.
    """
    with database.writing() as session:
        sql = session.connection()
        sql.exec_driver_sql(f"PRAGMA cache_size = -{CACHE_KIB}")
        chains = sql.exec_driver_sql("SELECT id, newest_hash FROM product")
        hashes: dict[int, str] = dict(map(tuple, chains))
        first_event = _next_id(session, "stock_event")
        known = {"id": FIRST_ORDER, "products": products, "price": PRICE_MINOR}
        known |= {"first_user": users.start, "users": len(users), "first_event": first_event}
        _number(session, PURCHASES, 0, count, at=STORED_AT, **known)
        _number(session, LINES, 0, count, **known)
        events = _events(count, users, products, hashes, first_event)
        while batch := list(islice(events, BATCH)):
            sql.exec_driver_sql(ADD_EVENT, batch)
        newest = [(end, product_id) for product_id, end in hashes.items()]
        sql.exec_driver_sql("UPDATE product SET newest_hash = ? WHERE id = ?", newest)
        session.commit()


def _events(
    count: int, users: range, products: int, hashes: dict[int, str], first_event: int
) -> Iterator[tuple[object, ...]]:
    """The sales as events; `hashes` follows the end of each product's chain."""
    for number in range(count):
        product_id, actor = 1 + number % products, f"user:{users[number % len(users)]}"
        stored_id = f"{FIRST_ORDER}{number:015x}"
        event = next_event(
            first_event + number,
            hashes[product_id],
            product_id=product_id,
            delta=-1,
            reason="sold",
            actor=actor,
            purchase_id=UUID(stored_id),
            at=AT,
        )
        hashes[product_id] = event["hash"]
        yield (
            event["id"],
            product_id,
            -1,
            "sold",
            actor,
            stored_id,
            STORED_AT,
            event["previous_hash"],
            event["hash"],
        )


def _number(session: Session, insert: str, first: int, end: int, **values: object) -> None:
    """Insert a row for each number from `first` on, `end` not included."""
    named = {"first": first, "end": end, **values}
    session.connection().exec_driver_sql(NUMBERS + insert, named)


def _next_id(session: Session, table: str) -> int:
    newest = f"SELECT coalesce(max(id), 0) + 1 FROM {table}"  # noqa: S608  # a table of ours
    return int(session.connection().exec_driver_sql(newest).scalar_one())
