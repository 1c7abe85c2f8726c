"""The ledger's two engines, from outside: new databases, and another program that opens them.

The server of the tests is set up as nobody would wish: in a zone of its own, and with the strictest
isolation for whoever does not ask for another. The ledger must not depend on either.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Engine, event

from labshop.stack.leash import Leash
from labshop.stack.postgres import PostgresServer
from labshop.storage.database import WRITER_LOCK, Database
from labshop.storage.seed import seed
from labshop.storage.statements import Statements

HOSTILE = {"timezone": "Asia/Kathmandu", "default_transaction_isolation": "serializable"}
TEMPLATE = "stocked"
_numbers = count(1)


@contextmanager
def stocked_server(leash: Leash, *, durable: bool) -> Iterator[PostgresServer]:
    """A server for many tests, with a stocked ledger that databases copy."""
    with PostgresServer(leash, durable=durable, options=HOSTILE) as server:
        execute(server.url(), sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
        stock(server.url(TEMPLATE))
        yield server


def stock(url: str) -> None:
    """Give a database its tables and its catalogue, as a shop does when it opens."""
    database = Database(url, timeout_ms=5_000)
    database.migrate()
    seed(database, admin_password_hash="!")
    database.close()


def new_database(server: PostgresServer, template: str = TEMPLATE) -> str:
    """Make a database that is a copy of another; returns its URL."""
    name = f"ledger_{next(_numbers)}"
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    execute(server.url(), copy.format(sql.Identifier(name), sql.Identifier(template)))
    return server.url(name)


def dropped(server: PostgresServer, url: str) -> None:
    """Throw a database away, whoever is connected."""
    name = sql.Identifier(url.rpartition("/")[2])
    execute(server.url(), sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@contextmanager
def told_of_statements(engine: Engine, tell: Callable[[str], object]) -> Iterator[None]:
    """Tell, in the sending thread, of each statement just before it is sent."""
    send = Statements.send

    def watch(_connection: object, _cursor: object, sent: str, *_rest: object) -> None:
        tell(sent)

    def tell_and_send(
        self: Statements, sql: str, values: Sequence[Any] = (), *, many: bool = False
    ) -> None:
        tell(sql)
        send(self, sql, values, many=many)

    event.listen(engine, "before_cursor_execute", watch)
    Statements.send = tell_and_send  # type: ignore[method-assign]  # what the library does not see
    try:
        yield
    finally:
        Statements.send = send  # type: ignore[method-assign]  # as it was
        event.remove(engine, "before_cursor_execute", watch)


def execute(url: str, statement: sql.Composed) -> None:
    """Run a statement outside of a transaction."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


class OtherProgram:
    """A program beside the shop, on the same ledger, with the engine's own driver."""

    def __init__(self, url: str) -> None:
        self._is_sqlite = url.startswith("sqlite:///")
        self._connection: Any = (
            sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
            if self._is_sqlite
            else psycopg.connect(url, autocommit=True)
        )

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """What a query finds."""
        return list(self._connection.execute(statement).fetchall())

    def begin_writing(self) -> None:
        """Take the writer's place, until it is closed."""
        if self._is_sqlite:
            self._connection.execute("BEGIN IMMEDIATE")
        else:
            self._connection.execute(f"SELECT pg_advisory_lock({WRITER_LOCK})")

    def close(self) -> None:
        self._connection.close()


@contextmanager
def other_program(url: str) -> Iterator[OtherProgram]:
    """Another program at work on a ledger."""
    with closing(OtherProgram(url)) as program:
        yield program
