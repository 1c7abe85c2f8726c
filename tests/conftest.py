"""Real servers for every test: a Redis and a PostgreSQL process per worker, a ledger per test."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from labshop.api.shop import Shop, build_shop, running
from labshop.errors import SetupError
from labshop.locks import Node
from labshop.settings import Settings
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from labshop.stack.postgres import PostgresServer, find_postgres
from tests.ledgers import dropped, new_database, stocked_server

SECRET = "a-secret-of-tests-that-has-at-least-32-bytes"
SETTLE_S = 20.0

either_ledger = pytest.mark.parametrize("ledger_url", ["sqlite", "postgresql"], indirect=True)
"""Runs a test, or a module, on each of the ledger's engines in turn; all others run on SQLite."""

on_postgresql = pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
"""Runs it on PostgreSQL alone."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let tests/contract be held against any strategy, on any stores."""
    parser.addoption("--strategy", help="module:Class of a strategy, for tests/contract")
    stores = ("lab", "postgresql", "sentinel", "cluster")
    parser.addoption("--stores", choices=stores, default="lab", help="for tests/contract")


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer() -> None:
    for name in [name for name in os.environ if name.startswith("LABSHOP_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def leash() -> Iterator[Leash]:
    with Leash() as held:
        yield held


@pytest.fixture(scope="session")
def valkey(leash: Leash, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerNode]:
    """The packaged Valkey, one per worker."""
    yield from _serve(find_server(None), leash, tmp_path_factory.mktemp("valkey"))


@pytest.fixture(scope="session")
def redis(leash: Leash, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerNode]:
    """The machine's own redis-server, one per worker."""
    found = shutil.which("redis-server")
    if found is None:
        need_in_ci("redis-server is not installed; these tests ran on the packaged Valkey only")
    yield from _serve(find_server(Path("redis-server")), leash, tmp_path_factory.mktemp("redis"))


@pytest.fixture(params=["valkey", "redis"])
def either_server(request: pytest.FixtureRequest) -> ServerNode:
    """Each kind of server in turn."""
    server: ServerNode = request.getfixturevalue(request.param)
    return server


@pytest.fixture
async def node(either_server: ServerNode) -> AsyncIterator[Node]:
    """An empty node of each kind."""
    async with connected(either_server) as connection:
        yield connection


@pytest.fixture(scope="session")
def postgres(leash: Leash) -> Iterator[PostgresServer]:
    """A PostgreSQL server, one per worker, that is set up as nobody would wish."""
    need_postgres()
    with stocked_server(leash, durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def durable_postgres(leash: Leash) -> Iterator[PostgresServer]:
    """A server whose commits reach the disk, one per worker, for tests that kill it."""
    need_postgres()
    with stocked_server(leash, durable=True) as server:
        yield server


@pytest.fixture
def frail_postgres(durable_postgres: PostgresServer) -> PostgresServer:
    """The same, at work, whatever the test before has done to it."""
    if not durable_postgres.alive:
        durable_postgres.restart()
    return durable_postgres


@pytest.fixture
def frail_ledger_url(frail_postgres: PostgresServer) -> str:
    """A new ledger on it."""
    return new_database(frail_postgres)


@pytest.fixture
def ledger_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Where this test's ledger is, which is new; None is SQLite in the shop's home."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield None
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = new_database(server)
    yield url
    dropped(server, url)


@pytest.fixture
def settings(tmp_path: Path, ledger_url: str | None) -> Settings:
    return Settings(
        home=tmp_path / "home",
        jwt_secret=SECRET,  # type: ignore[arg-type]  # pydantic wraps it
        node_timeout_ms=2_000,
        database_url=ledger_url,
        # In the tests, one user asks as no person could.
        user_rate_per_s=1_000_000,
        user_burst=1_000_000,
    )


@pytest.fixture
async def shop(valkey: ServerNode, settings: Settings) -> AsyncIterator[Shop]:
    """A stocked shop on an empty gate and a new ledger."""
    async with open_shop(valkey, settings) as opened:
        yield opened


@asynccontextmanager
async def connected(server: ServerNode) -> AsyncIterator[Node]:
    """A connection to a server that has been emptied."""
    connection = Node(server.url, timeout_ms=2_000)
    await connection.command("FLUSHALL")
    yield connection
    await connection.close()


@asynccontextmanager
async def open_shop(server: ServerNode, settings: Settings) -> AsyncIterator[Shop]:
    """A shop in this process, once it can sell."""
    async with connected(server):
        pass
    async with running(build_shop(settings, gate_url=server.url)) as shop:
        async with asyncio.timeout(SETTLE_S):
            await shop.opened.wait()
        yield shop


async def eventually(
    happened: Callable[[], Awaitable[bool]], *, within_s: float = SETTLE_S
) -> None:
    """Wait until something has happened, and fail when it does not."""
    async with asyncio.timeout(within_s):
        while not await happened():
            await asyncio.sleep(0.01)


async def users(shop: Shop, count: int) -> list[int]:
    """Ids of new users, who have no password."""
    accounts = (shop.accounts.create(f"buyer-{number}", "!") for number in range(count))
    return [account.id for account in await asyncio.gather(*accounts)]


def need_in_ci(sentence: str) -> None:
    """Skip with a sentence; where everything must be installed, fail with it."""
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)


def need_postgres() -> None:
    """Skip what needs a PostgreSQL server where there is none."""
    try:
        find_postgres()
    except SetupError:
        need_in_ci("PostgreSQL is not installed; these tests ran on SQLite only")


def _serve(server: Path, leash: Leash, folder: Path) -> Iterator[ServerNode]:
    node = ServerNode(NodeSpec("primary", "primary"), server, folder, leash)
    node.start()
    yield node
    node.stop()
