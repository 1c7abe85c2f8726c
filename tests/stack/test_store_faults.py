"""SQL that is away or slow, and a disk that is full: what is refused did not happen."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, closing
from http import HTTPStatus
from pathlib import Path
from statistics import median

import httpx2 as httpx
import pytest
from sqlalchemy import text

from labshop.api.shop import Shop
from labshop.settings import Settings
from labshop.shop.domain import Line, Order
from labshop.shop.errors import Unavailable
from labshop.stack.faults import disk_full, killed, shimmed, sql_away, sql_slow
from labshop.stack.faults.errors import FaultUnavailable
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from labshop.stack.ports import LOOPBACK, free_port
from labshop.stack.probe import ask_redis
from labshop.stack.shop_api import ApiProcess
from labshop.storage.database import Database
from tests.conftest import SECRET, eventually, need_in_ci, open_shop, users

PATIENCE_S = 10.0
TIMEOUT_MS = 400
ENTRY = "SELECT count(*) FROM entry"
WaitUntil = Callable[[Callable[[], bool]], None]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """An SQLite file with one empty table, in write-ahead mode."""
    path = tmp_path / "book.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE entry (number INTEGER)")
    return path


@pytest.fixture
def database(book: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{book}", timeout_ms=TIMEOUT_MS)
    yield database
    database.close()


@pytest.fixture
async def impatient_shop(valkey: ServerNode, tmp_path: Path) -> AsyncIterator[Shop]:
    """A stocked shop that waits 0.4 s for SQL."""
    settings = Settings(
        home=tmp_path / "home",
        jwt_secret=SECRET,  # type: ignore[arg-type]  # pydantic wraps it
        node_timeout_ms=2_000,
        database_timeout_ms=2 * TIMEOUT_MS,
    )
    async with open_shop(valkey, settings) as shop:
        yield shop


def write(database: Database, number: int) -> float:
    """Write one entry, and return how long its transaction took, in milliseconds."""
    began_s = time.perf_counter()
    with database.writing() as session:
        session.execute(text("INSERT INTO entry VALUES (:number)"), {"number": number})
        session.commit()
    return (time.perf_counter() - began_s) * 1_000


def count(database: Database) -> int:
    with database.reading() as session:
        return int(session.execute(text(ENTRY)).scalar_one())


def test_no_transaction_begins_while_sql_is_away(database: Database, book: Path) -> None:
    """Old connections and new ones, readers and writers wait for their timeout and fail."""
    write(database, 1)
    newcomer = Database(f"sqlite:///{book}", timeout_ms=TIMEOUT_MS)
    with sql_away(book):
        began_s = time.monotonic()
        for store in (database, newcomer):
            with pytest.raises(Unavailable, match="database is locked"):
                count(store)
        with pytest.raises(Exception, match="database is locked"):
            write(database, 2)
        assert time.monotonic() - began_s >= 3 * TIMEOUT_MS / 1_000

    assert (count(database), count(newcomer)) == (1, 1)
    write(newcomer, 3)
    assert count(database) == 2
    newcomer.close()


def test_sql_goes_away_with_nobody_connected(book: Path) -> None:
    """The first who comes finds it away, and the next, after it, finds all data."""
    with (
        sql_away(book),
        closing(sqlite3.connect(book, timeout=0.1)) as connection,
        pytest.raises(sqlite3.OperationalError, match="database is locked"),
    ):
        connection.execute(ENTRY)

    with closing(sqlite3.connect(book)) as connection:
        assert connection.execute(ENTRY).fetchone() == (0,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_sql_goes_away_between_transactions(database: Database, book: Path) -> None:
    """A transaction that is under way is not torn: the fault waits for its commit."""
    with sqlite3.connect(book, isolation_level=None, check_same_thread=False) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO entry VALUES (1)")
        fault = sql_away(book)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("labshop.stack.faults.children.START_DEADLINE_S", 0.5)
            with pytest.raises(FaultUnavailable, match="did not begin"), fault:
                pytest.fail("the body was entered")
        writer.execute("COMMIT")
    writer.close()

    assert count(database) == 1
    with sql_away(book):
        pass
    assert count(database) == 1


async def test_a_ledger_that_is_away_books_nothing(impatient_shop: Shop) -> None:
    """Purchases and questions are refused as unavailable; healed, the ledger goes on."""
    shop = impatient_shop
    buyer, other = await users(shop, 2)
    refused = Order.place(buyer, [Line(1, 1)])
    with sql_away(shop.settings.home / "ledger.db"):
        with pytest.raises(Unavailable):
            await shop.ledger.record(refused, fence=1)
        with pytest.raises(Unavailable):
            await shop.ledger.find(refused.id)

    assert await shop.ledger.find(refused.id) is None
    assert (await shop.ledger.snapshot()).left[1] == 100
    await shop.ledger.record(Order.place(other, [Line(1, 1)]), fence=1)
    assert (await shop.ledger.snapshot()).left[1] == 99


def test_commits_meet_a_lock_again_and_again_while_sql_is_slow(
    database: Database, book: Path
) -> None:
    """Commits take about the delay, and succeed; without the fault none does."""
    patient = Database(f"sqlite:///{book}", timeout_ms=20_000)
    with sql_slow(book, 250):
        slow_ms = write_for(3.0, patient)
    quick_ms = write_for(0.5, patient)
    patient.close()

    # On a busy machine some come through before the child has the processor again.
    assert len([taken_ms for taken_ms in slow_ms if taken_ms >= 150]) >= 3
    assert median(quick_ms) < 150
    assert count(database) == len(slow_ms) + len(quick_ms)


def write_for(duration_s: float, database: Database) -> list[float]:
    """Write entry after entry, and return how long each took, in milliseconds."""
    end_s = time.monotonic() + duration_s
    taken_ms: list[float] = []
    while time.monotonic() < end_s:
        taken_ms.append(write(database, len(taken_ms)))
    return taken_ms


def test_several_writers_all_get_their_turn_while_sql_is_slow(book: Path) -> None:
    """Three programs that write at once all commit: the fault gives way to each."""
    patient = [Database(f"sqlite:///{book}", timeout_ms=60_000) for _ in range(3)]

    async def write_at_once() -> None:
        async with asyncio.TaskGroup() as writers:
            for number, database in enumerate(patient):
                writers.create_task(asyncio.to_thread(write, database, number))

    with sql_slow(book, 100):
        asyncio.run(write_at_once())

    assert count(patient[0]) == 3
    for database in patient:
        database.close()


def test_readers_do_not_wait_while_sql_is_slow(database: Database, book: Path) -> None:
    """A lock of ten minutes, longer than any timeout, delays no reader."""
    write(database, 1)
    with sql_slow(book, 600_000):
        assert count(database) == 1


@pytest.mark.parametrize("fault", [sql_away, lambda path: sql_slow(path, 600_000)])
def test_an_interrupted_body_gives_sql_back(
    fault: Callable[[Path], AbstractContextManager[int]], database: Database, book: Path
) -> None:
    """After a Ctrl-C in the body, transactions begin."""
    with pytest.raises(KeyboardInterrupt), fault(book):
        raise KeyboardInterrupt

    write(database, 1)
    assert count(database) == 1


@pytest.mark.parametrize("fault", [sql_away, lambda path: sql_slow(path, 100)])
def test_what_is_no_database_is_refused(
    fault: Callable[[Path], AbstractContextManager[int]], tmp_path: Path
) -> None:
    """A file that is missing is named, and not made; so is one without a write-ahead log."""
    missing, plain = tmp_path / "missing.db", tmp_path / "plain.db"
    with closing(sqlite3.connect(plain)) as connection:
        connection.execute("CREATE TABLE entry (number INTEGER)")
    for path, why in ((missing, "unable to open"), (plain, "write-ahead mode")):
        with pytest.raises(FaultUnavailable, match=f"{path.name} .*{why}"), fault(path):
            pytest.fail("the body was entered")
    assert not missing.exists()


def environment(folder: Path) -> dict[str, str]:
    try:
        return shimmed(folder)
    except FaultUnavailable as sentence:
        need_in_ci(str(sentence))
        raise


@pytest.fixture
def node(server: Path | None, leash: Leash, tmp_path: Path) -> Iterator[ServerNode]:
    """A node of this test's own, of each kind of server, whose disk can be filled."""
    folder = tmp_path / "primary"
    node = ServerNode(
        NodeSpec("primary", "primary"),
        find_server(server),
        folder,
        leash,
        env=environment(folder),
    )
    node.start()
    yield node
    node.kill()


def ask(node: ServerNode, command: str) -> str:
    return ask_redis(node.port, command, timeout_s=PATIENCE_S)


def is_refused(node: ServerNode) -> bool:
    return ask(node, "INCR tries").startswith("-MISCONF")


def test_a_node_without_room_refuses_writes_and_goes_on_reading(
    node: ServerNode, wait_until: WaitUntil
) -> None:
    """MISCONF names the reason; healed, the node takes writes, and what it took it kept."""
    assert ask(node, "SET before 1") == "+OK"
    with disk_full(node):
        wait_until(lambda: is_refused(node))
        tries = ask(node, "GET tries")
        assert "No space left on device" in ask(node, "SET during 1")
        assert ask(node, "GET before") == "1"

    wait_until(lambda: ask(node, "SET after 1") == "+OK")
    with killed(node):
        pass
    found = [ask(node, f"GET {key}") for key in ("before", "tries", "during", "after")]
    assert found == ["1", tries, "$-1", "1"]


def test_a_node_that_must_sync_each_write_ends_itself(
    node: ServerNode, wait_until: WaitUntil
) -> None:
    """With `appendfsync always` it dies rather than acknowledge what is not on disk."""
    assert ask(node, "CONFIG SET appendfsync always") == "+OK"
    assert ask(node, "SET before 1") == "+OK"
    with disk_full(node):
        with pytest.raises(OSError, match=r".*"):
            raise_if_empty(ask(node, "SET during 1"))
        wait_until(lambda: not node.alive)

    node.restart()
    assert (ask(node, "GET before"), ask(node, "GET during")) == ("1", "$-1")


def raise_if_empty(answer: str) -> None:
    """A connection that was closed gives no answer."""
    if not answer:
        raise ConnectionResetError


def test_an_interrupted_body_gives_room_back(node: ServerNode, wait_until: WaitUntil) -> None:
    """After a Ctrl-C in the body, writes are taken."""

    def be_interrupted() -> None:
        wait_until(lambda: is_refused(node))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), disk_full(node):
        be_interrupted()

    wait_until(lambda: not is_refused(node))


def test_a_process_without_the_shim_refuses(valkey: ServerNode) -> None:
    """The fault does not pretend."""
    with pytest.raises(FaultUnavailable), disk_full(valkey):
        pytest.fail("the body was entered")


async def test_an_api_without_room_books_nothing(
    impatient_shop: Shop, valkey: ServerNode, leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A purchase is not confirmed, nothing is booked, looking is possible; healed, it sells."""
    shop, home = impatient_shop, impatient_shop.settings.home
    monkeypatch.setenv("LABSHOP_JWT_SECRET", SECRET)
    api = ApiProcess(
        leash, home, gate_url=valkey.url, host=LOOPBACK, port=free_port(), env=environment(home)
    )
    api.start()
    try:
        async with httpx.AsyncClient(base_url=api.url, timeout=30) as client:
            first, second = [shop.tokens.issue(user_id) for user_id in await users(shop, 2)]
            with disk_full(api):
                refused = await buy(client, first)
                assert refused.status_code == HTTPStatus.SERVICE_UNAVAILABLE
                assert (await client.get("/products")).status_code == HTTPStatus.OK
                assert await shop.ledger.sold(1) == 0

            async def sells() -> bool:
                return (await buy(client, second)).status_code == HTTPStatus.CREATED

            await eventually(sells)
    finally:
        api.kill()
    assert await shop.ledger.sold(1) == 1


async def buy(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.post(
        "/v1/purchases",
        json={"lines": [{"product_id": 1, "quantity": 1}]},
        headers={"Authorization": f"Bearer {token}", "Idempotency-Key": token[-32:]},
    )
