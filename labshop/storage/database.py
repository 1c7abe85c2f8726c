"""The connection to SQL: engine, transactions, migrations, and what an outage looks like.

SQLite in write-ahead mode by default, PostgreSQL by its URL. A commit is flushed to disk
before it counts (`synchronous=FULL`): what a buyer is told, a power loss does not take back.

There is one writer at a time: a write transaction asks for that place when it begins (SQLite by
BEGIN IMMEDIATE, PostgreSQL by an advisory lock), so that events are numbered in the order of
their commits. What one transaction reads is of one moment.

What a PostgreSQL server is set up for is not relied on: isolation and time zone are asked for.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import Any, TypeVar

import anyio.to_thread
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool
from sqlmodel import Session

from labshop.errors import SetupError
from labshop.shop.errors import Unavailable

T = TypeVar("T")

WRITER_LOCK = 7_351
"""PostgreSQL's advisory lock of whoever writes the ledger."""

_CLOSE_POLL_S = 0.005

OUTAGE = (DBAPIError, PoolTimeoutError)

UNWRITABLE = (IntegrityError, DataError)
"""What SQL says of a row that it cannot hold: a fault of that row, and of no other's writer."""


class Database:
    """An engine, and its two kinds of transaction.

    Args:
        url: an SQLAlchemy URL, of SQLite or PostgreSQL.
        timeout_ms: how long a transaction waits for a lock or a connection.
    """

    def __init__(self, url: str, *, timeout_ms: int) -> None:
        try:
            self.engine = _make_engine(make_url(url), timeout_ms)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise SetupError(f"LABSHOP_DATABASE_URL is not usable: {error}.") from None
        self._timeout_s = timeout_ms / 1_000
        # A file answers, or is locked, in time; a server may hang. It has twice the time of one
        # statement: to connect, and to be asked.
        self._patience_s = None if _is_sqlite(self.engine.url) else 2 * self._timeout_s

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only reads.

        Raises:
            Unavailable: the database cannot be reached.
        """
        try:
            with Session(self.engine) as session:
                yield session
        except OUTAGE as error:
            raise Unavailable("ledger", outage_reason(error)) from error

    async def read(self, work: Callable[[Session], T]) -> T:
        """Run a piece of work in a reading transaction, in a worker thread.

        Raises:
            Unavailable: the database cannot be reached.
        """

        def read() -> T:
            with self.reading() as session:
                return work(session)

        try:
            async with asyncio.timeout(self._patience_s):
                may_hang = self._patience_s is not None
                return await anyio.to_thread.run_sync(read, abandon_on_cancel=may_hang)
        except TimeoutError:
            raise Unavailable("ledger", "no answer in time") from None

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that writes; the caller commits it. Outages pass as they are."""
        with (
            self.engine.connect().execution_options(writes=True) as connection,
            Session(connection, expire_on_commit=False) as session,
        ):
            yield session

    def migrate(self) -> None:
        """Bring the tables to the newest revision; two processes may do so at once."""
        with (
            as_file(files("labshop.storage") / "migrations") as folder,
            self.engine.connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            config = Config()
            config.set_main_option("script_location", str(folder))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        """Return every connection, once each transaction under way has ended or had its time."""
        until_s = time.monotonic() + self._timeout_s
        while self._in_use() and time.monotonic() < until_s:
            time.sleep(_CLOSE_POLL_S)
        self.engine.dispose()

    def _in_use(self) -> bool:
        # A cancelled reading goes on in its thread, and its connection would never be closed.
        pool = self.engine.pool
        return isinstance(pool, QueuePool) and pool.checkedout() > 0


def outage_reason(error: Exception) -> str:
    """The driver's own words, without the statement and its values."""
    words = str(error.orig if isinstance(error, DBAPIError) else error).strip()
    return (words.splitlines() or [type(error).__name__])[0]


def _make_engine(url: URL, timeout_ms: int) -> Engine:
    if _is_sqlite(url):
        return _make_sqlite_engine(url, timeout_ms)
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise ArgumentError(f"{url.get_backend_name()} is neither SQLite nor PostgreSQL")
    # The URL as libpq and cloud providers write it names no driver, or another one.
    return _make_postgresql_engine(url.set(drivername="postgresql+psycopg"), timeout_ms)


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _make_sqlite_engine(url: URL, timeout_ms: int) -> Engine:
    timeout_s = timeout_ms / 1_000
    engine = create_engine(
        url,
        connect_args={"timeout": timeout_s, "check_same_thread": False},
        pool_timeout=timeout_s,
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_postgresql_engine(url: URL, timeout_ms: int) -> Engine:
    settings = {"statement_timeout": timeout_ms, "lock_timeout": timeout_ms, "timezone": "UTC"}
    engine = create_engine(
        url,
        connect_args={
            "connect_timeout": max(1, timeout_ms // 1_000),
            "tcp_user_timeout": timeout_ms,
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
        },
        # A writer that had to wait for its place must see what the one before it wrote.
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_timeout=timeout_ms / 1_000,
    )
    event.listen(engine, "begin", _begin_postgresql)
    return engine


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get("writes"):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own BEGIN comes too late, and breaks savepoints.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
