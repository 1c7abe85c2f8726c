"""No statement of a sale looks at a whole table: what it costs does not grow with the ledger."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import event

from labshop.settings import Settings
from labshop.shop.domain import Line, Order
from labshop.shop.errors import AlreadyBooked
from labshop.storage.accounts import Accounts
from labshop.storage.catalog import Catalog
from labshop.storage.database import Database
from labshop.storage.ledger import SqlLedger
from labshop.storage.statements import ADD_EVENT, ADD_LINE, ADD_PURCHASE, TAKE, Statements
from labshop.storage.writer import GroupWriter
from tests.conftest import either_ledger
from tests.ledgers import stock

pytestmark = either_ledger
LARGE = ("user_account", "product", "purchase", "purchase_line", "stock_event")
"""The tables that grow with the shop; the others have a row, or a few."""


def scans_of_sqlite(cursor: Any, statement: str, values: Any) -> list[str]:
    """The steps of SQLite's plan that go through a whole large table, or a whole index of one."""
    steps = [str(row[3]) for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    return [it for it in steps if it.startswith("SCAN ") and it.split()[1] in LARGE]


def scans_of_postgresql(cursor: Any, statement: str, values: Any) -> list[str]:
    """The same of PostgreSQL, which is told that reading a whole table costs more than anything."""
    cursor.execute("SET LOCAL enable_seqscan = off")
    [(plans,)] = cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", values)
    return [json.dumps(node) for plan in plans for node in _nodes(plan["Plan"]) if _is_scan(node)]


def _nodes(node: dict[str, Any], *, is_cut: bool = False) -> Iterator[dict[str, Any]]:
    """All steps but those of which only the first row is taken: the newest event is one."""
    is_cut = is_cut or node["Node Type"] == "Limit"
    if not is_cut:
        yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child, is_cut=is_cut)


def _is_scan(node: dict[str, Any]) -> bool:
    by_index = "Index Cond" in node or "Recheck Cond" in node
    return "Scan" in node["Node Type"] and node.get("Relation Name") in LARGE and not by_index


@dataclass
class Books:
    """A stocked ledger, and nobody else at work on it."""

    database: Database
    ledger: SqlLedger
    accounts: Accounts
    catalog: Catalog


@pytest.fixture
async def books(settings: Settings) -> AsyncIterator[Books]:
    settings.home.mkdir()
    stock(settings.ledger_url())
    database = Database(settings.ledger_url(), timeout_ms=5_000)
    writer = GroupWriter(database, timeout_ms=10_000)
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(writer.run())
        ledger, accounts = SqlLedger(database, writer), Accounts(database, writer)
        yield Books(database, ledger, accounts, Catalog(database))
        writing.cancel()
    database.close()


@contextmanager
def explained(books: Books) -> Iterator[dict[str, list[str]]]:
    """Of each statement within the body, whoever sends it, what it scans."""
    found: dict[str, list[str]] = {}
    is_sqlite = books.database.engine.dialect.name == "sqlite"
    scans_of = scans_of_sqlite if is_sqlite else scans_of_postgresql

    def look(cursor: Any, statement: str, values: Any, *, many: bool) -> None:
        verb = statement.split(maxsplit=1)[0]
        if verb in {"SELECT", "INSERT", "UPDATE", "DELETE"} and statement not in found:
            another = cursor.connection.cursor()
            found[statement] = scans_of(another, statement, values[0] if many else values)

    def library(_c: Any, cursor: Any, statement: str, values: Any, _x: Any, many: bool) -> None:
        look(cursor, statement, values, many=many)

    def send(self: Statements, sql: str, values: Any = (), *, many: bool = False) -> None:
        look(self._cursor, sql if is_sqlite else sql.replace("?", "%s"), values, many=many)
        sent(self, sql, values, many=many)

    sent = Statements.send
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Statements, "send", send)
        event.listen(books.database.engine, "before_cursor_execute", library)
        try:
            yield found
        finally:
            event.remove(books.database.engine, "before_cursor_execute", library)


async def test_no_statement_of_a_sale_scans(books: Books) -> None:
    """Buying, repeating, looking, cancelling and signing out find all that they ask for by keys."""
    ada, bob = [(await books.accounts.create(name, "!")).id for name in ("ada", "bob")]
    order = Order.place(ada, [Line(1, 2), Line(2, 1)], idempotency_key="one")

    with explained(books) as found:
        receipt = await books.ledger.record(order, fence=1)
        with pytest.raises(AlreadyBooked):
            await books.ledger.record(order, fence=1)
        await books.ledger.next_fence("stock:1")
        assert await books.ledger.find(receipt.order_id) is not None
        assert await books.ledger.find_by_key(ada, "one") is not None
        assert await books.ledger.orders_of(ada, limit=10, offset=0) == [receipt]
        _, sequence = await books.ledger.cancel(order.id, user_id=ada, actor="user")
        assert await books.ledger.sequence() == sequence
        assert len(await books.ledger.cancelled_since(receipt.sequence)) == 1
        assert await books.catalog.product(1) is not None
        assert await books.accounts.by_name("ada") is not None
        assert await books.accounts.holder_of(bob, "token") is not None

    assert {statement: scans for statement, scans in found.items() if scans} == {}
    assert {ADD_PURCHASE, ADD_LINE, ADD_EVENT, TAKE} <= {it.replace("%s", "?") for it in found}
    assert sum("purchase" in statement for statement in found) >= 10


async def test_cancellations_are_found_by_an_index_of_their_own(books: Books) -> None:
    """What is told to the gate twice a second does not look at all that was sold in between."""
    with explained(books) as found:
        await books.ledger.cancelled_since(0)

    [cancelled] = [it for it in found if "reason = 'cancelled'" in it]
    assert "ix_stock_event_cancelled" in plan_of(books, cancelled)


def plan_of(books: Books, statement: str) -> str:
    """The plan of a statement on the newest event, in the database's words."""
    is_sqlite = books.database.engine.dialect.name == "sqlite"
    with books.database.reading() as session:
        connection = session.connection()
        if is_sqlite:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", (0,))
        else:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            rows = connection.exec_driver_sql(f"EXPLAIN {statement}", {"id_1": 0})
        return "\n".join(str(tuple(row)) for row in rows)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT count(*) FROM purchase WHERE fingerprint = 'x'",
        "SELECT sum(price_minor) FROM purchase GROUP BY fingerprint",
        "SELECT count(*) FROM stock_event JOIN purchase ON purchase.id = purchase_id",
    ],
)
async def test_control_a_statement_without_an_index_is_seen(books: Books, statement: str) -> None:
    """Control: what nothing but a look at all rows can answer is told."""
    with explained(books) as found, books.database.reading() as session:
        session.connection().exec_driver_sql(statement)

    assert found[statement]
