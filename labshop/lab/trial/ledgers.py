"""New ledgers for trials: each is a copy of one that was migrated and seeded once.

The problem: every trial needs a ledger that nobody has written, at once, on either engine. The
idea: an SQLite ledger is a file, which is copied; PostgreSQL copies a whole database by itself
(https://www.postgresql.org/docs/current/manage-ag-templatedbs.html). A branch reaches such a
server through the arena's network, as it reaches the gate, so that this way can be broken.

On a PostgreSQL server that is somebody's, only databases are touched that were made here. The
role of the URL has to have the right CREATEDB.
"""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlmodel import update

from labshop.errors import SetupError
from labshop.stack.faults.network import Network
from labshop.stack.ports import LOOPBACK
from labshop.storage import changes
from labshop.storage.database import Database, outage_reason
from labshop.storage.seed import seed
from labshop.storage.tables import SaleWindow

LEDGER = "ledger"
SETUP_TIMEOUT_MS = 10_000

_HERE = (LOOPBACK, "localhost")
_POSTGRESQL_PORT = 5_432


class Ledgers(Protocol):
    """Where trials get their ledgers from."""

    def new(self, folder: Path) -> AbstractContextManager[str]:
        """A new ledger for the length of a body; returns its URL. The folder is the trial's."""

    def way(self, url: str, branch: str) -> str:
        """The URL under which a branch reaches it."""


def put_on_sale(url: str, stock: dict[int, int], limit_per_user: int) -> None:
    """Put units on sale in a new ledger, and say how many of them one user may buy."""
    database = Database(url, timeout_ms=SETUP_TIMEOUT_MS)
    with database.writing() as session:
        for product, units in stock.items():
            changes.adjust(session, product, units, "trial")
        session.execute(update(SaleWindow).values(limit_per_user=limit_per_user))
        session.commit()
    database.close()


def sqlite_file(url: str) -> Path | None:
    """The file of a ledger; None when it is on a server."""
    prefix, is_sqlite, path = url.partition("sqlite:///")
    return Path(path) if is_sqlite and not prefix else None


class SqliteLedgers:
    """Files, which every branch opens.

    Args:
        home: folder for the file that is copied.
    """

    def __init__(self, home: Path) -> None:
        self._template = home / "template.db"
        _set_up(f"sqlite:///{self._template}")

    @contextmanager
    def new(self, folder: Path) -> Iterator[str]:
        """See `Ledgers`."""
        shutil.copy(self._template, folder / "ledger.db")
        yield f"sqlite:///{folder / 'ledger.db'}"

    def way(self, url: str, branch: str) -> str:
        """See `Ledgers`."""
        return url


@contextmanager
def postgresql_ledgers(database_url: str, network: Network) -> Iterator["PostgresqlLedgers"]:
    """Databases of a server on this machine, which is left as it was found.

    Args:
        database_url: of any database there; it is connected to, and not written.
        network: gets a server more, the ledger.

    Raises:
        SetupError: the server is elsewhere, cannot be reached, or lets no database be made.
    """
    try:
        url = make_url(database_url).set(drivername="postgresql+psycopg")
    except ArgumentError:
        raise SetupError("The ledger's URL is not one that SQLAlchemy can read.") from None
    if url.host not in _HERE:
        raise SetupError(
            f"A trial breaks the way to its ledger, so PostgreSQL has to be on {LOOPBACK}."
        )
    network.add(LEDGER, url.port or _POSTGRESQL_PORT)
    ledgers = PostgresqlLedgers(url, network)
    with ledgers.template():
        yield ledgers


class PostgresqlLedgers:
    """Databases of one server; see `postgresql_ledgers`."""

    def __init__(self, server: URL, network: Network) -> None:
        self._server = server
        self._network = network
        self._name = f"labshop_trial_{secrets.token_hex(4)}"

    @contextmanager
    def template(self) -> Iterator[None]:
        """Make the database that is copied, for the length of a body."""
        self._execute(f"CREATE DATABASE {self._name}")
        try:
            _set_up(_plain(self._server.set(database=self._name)))
            yield
        finally:
            self._execute(f"DROP DATABASE {self._name} WITH (FORCE)")

    @contextmanager
    def new(self, folder: Path) -> Iterator[str]:
        """See `Ledgers`."""
        name = f"{self._name}_copy"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {self._name}")
        try:
            yield _plain(self._server.set(database=name))
        finally:
            # By force, for a branch that was cut off may have left a connection there.
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def way(self, url: str, branch: str) -> str:
        """See `Ledgers`."""
        port = self._network.port(LEDGER, branch)
        return _plain(make_url(url).set(host=LOOPBACK, port=port))

    def _execute(self, statement: str) -> None:
        """Run a statement that no transaction may contain."""
        engine = create_engine(self._server, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(text(statement))
        except OperationalError as error:
            raise SetupError(f"PostgreSQL refused a trial: {outage_reason(error)}.") from None
        finally:
            engine.dispose()


def _set_up(url: str) -> None:
    database = Database(url, timeout_ms=SETUP_TIMEOUT_MS)
    database.migrate()
    seed(database, admin_password_hash="!")  # noqa: S106  # fits no password
    database.close()


def _plain(url: URL) -> str:
    return url.render_as_string(hide_password=False)
