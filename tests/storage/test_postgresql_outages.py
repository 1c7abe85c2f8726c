"""A PostgreSQL server that goes away: who asks is told what is certain, and what nobody knows."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress

import pytest
from sqlalchemy import Connection, event

from labshop.api.shop import Shop
from labshop.settings import Settings
from labshop.shop.domain import Line, Order, Receipt
from labshop.shop.errors import Unavailable, Unknown
from labshop.stack.faults.network import Network
from labshop.stack.nodes import ServerNode
from labshop.stack.postgres import PostgresServer
from tests.conftest import eventually, open_shop, users
from tests.ledgers import other_program, told_of_statements

PRODUCT = 1
PATIENCE_MS = 1_000


@pytest.fixture
async def frail_shop(
    valkey: ServerNode, settings: Settings, frail_ledger_url: str
) -> AsyncIterator[Shop]:
    """A shop on a server that is killed and frozen; it does not wait long."""
    async with shop_on(valkey, settings, frail_ledger_url) as shop:
        yield shop


@asynccontextmanager
async def shop_on(valkey: ServerNode, settings: Settings, url: str) -> AsyncIterator[Shop]:
    changed = {"database_url": url, "database_timeout_ms": PATIENCE_MS}
    async with open_shop(valkey, settings.model_copy(update=changed)) as shop:
        yield shop


def order_of(user_id: int, quantity: int = 2, key: str | None = None) -> Order:
    return Order.place(user_id, [Line(PRODUCT, quantity)], idempotency_key=key)


@contextmanager
def before(shop: Shop, statement: str, harm: Callable[[], object]) -> Iterator[None]:
    """Do harm once, when the shop is about to send a statement that begins like this."""
    harmed: list[str] = []

    def watch(sent: str) -> None:
        if sent.startswith(statement) and not harmed:
            harmed.append(sent)
            harm()

    with told_of_statements(shop.database.engine, watch):
        yield
    assert harmed, "no such statement was sent"


@contextmanager
def before_commit(shop: Shop, harm: Callable[[], object]) -> Iterator[None]:
    """Do harm once, when the shop is about to send a commit."""
    harmed: list[bool] = []

    def watch(_connection: Connection) -> None:
        if not harmed:
            harmed.append(True)
            harm()

    event.listen(shop.database.engine, "commit", watch)
    yield
    event.remove(shop.database.engine, "commit", watch)
    assert harmed, "no commit was sent"


async def left(shop: Shop) -> int:
    return (await shop.ledger.snapshot()).left[PRODUCT]


@pytest.mark.parametrize(
    "statement", ["SELECT pg_advisory", "SAVEPOINT", "SELECT id, price", "INSERT INTO stock_event"]
)
async def test_killed_before_the_commit_nothing_was_booked(
    frail_shop: Shop, frail_postgres: PostgresServer, statement: str
) -> None:
    """Killed at any step of the transaction: the order is refused for certain, and it is so."""
    [user_id] = await users(frail_shop, 1)
    order = order_of(user_id)

    with before(frail_shop, statement, frail_postgres.kill), pytest.raises(Unavailable):
        await frail_shop.ledger.record(order, fence=0)
    with pytest.raises(Unavailable, match="ledger cannot be reached"):
        await frail_shop.ledger.find(order.id)
    await asyncio.to_thread(frail_postgres.restart)

    assert await frail_shop.ledger.find(order.id) is None
    assert await left(frail_shop) == 100
    assert (await frail_shop.ledger.record(order, fence=0)).order_id == order.id


async def test_killed_at_the_commit_nobody_knows(
    frail_shop: Shop, frail_postgres: PostgresServer
) -> None:
    """Killed before the commit arrived: the outcome is unknown, and found to be nothing."""
    [user_id] = await users(frail_shop, 1)
    order = order_of(user_id)

    with before_commit(frail_shop, frail_postgres.kill), pytest.raises(Unknown) as doubt:
        await frail_shop.ledger.record(order, fence=0)
    assert doubt.value.order_id == order.id
    await asyncio.to_thread(frail_postgres.restart)

    assert await frail_shop.ledger.find(order.id) is None
    assert await left(frail_shop) == 100


async def test_a_commit_whose_answer_was_lost_is_found(
    valkey: ServerNode, settings: Settings, frail_postgres: PostgresServer, frail_ledger_url: str
) -> None:
    """The commit arrived and its answer did not: the outcome is unknown, and found to be booked."""
    with Network({"ledger": frail_postgres.port}) as network:
        way = f":{network.port('ledger')}/"
        url = frail_ledger_url.replace(f":{frail_postgres.port}/", way)
        async with shop_on(valkey, settings, url) as shop:
            [user_id] = await users(shop, 1)
            order = order_of(user_id)
            with cut_off_at_the_commit(shop, network), pytest.raises(Unknown):
                await shop.ledger.record(order, fence=0)
            await eventually(lambda: is_booked(frail_ledger_url, order))

            await eventually(lambda: is_found(shop, order))
            assert await left(shop) == 98


@contextmanager
def cut_off_at_the_commit(shop: Shop, network: Network) -> Iterator[None]:
    """From a commit on, the server hears and its answers are lost."""
    with (
        ExitStack() as cuts,
        before_commit(shop, lambda: cuts.enter_context(network.replies_dropped())),
    ):
        yield


async def is_booked(url: str, order: Order) -> bool:
    with other_program(url) as program:
        return bool(program.rows(f"SELECT 1 FROM purchase WHERE id = '{order.id}'"))


async def is_found(shop: Shop, order: Order) -> bool:
    with suppress(Unavailable):
        return await shop.ledger.find(order.id) is not None
    return False


async def test_a_frozen_server_keeps_nobody_waiting(
    frail_shop: Shop, frail_postgres: PostgresServer
) -> None:
    """Frozen: who reads is refused in time, who writes is told, and thawed all of it is settled."""
    [user_id] = await users(frail_shop, 1)
    orders = [order_of(user_id, 1) for _ in range(3)]
    frail_postgres.freeze()

    async with asyncio.timeout(3 * PATIENCE_MS / 1_000):
        with pytest.raises(Unavailable):
            await frail_shop.ledger.find(orders[0].id)
        outcomes = await asyncio.gather(
            *(frail_shop.ledger.record(order, fence=0) for order in orders), return_exceptions=True
        )
    assert {type(outcome) for outcome in outcomes} <= {Unknown, Unavailable}
    frail_postgres.thaw()

    await eventually(lambda: writes_again(frail_shop))
    found = [await frail_shop.ledger.find(order.id) for order in orders]
    assert await left(frail_shop) == 100 - sum(receipt is not None for receipt in found)
    for outcome, receipt in zip(outcomes, found, strict=True):
        assert receipt is None or isinstance(outcome, Unknown)


async def writes_again(shop: Shop) -> bool:
    with suppress(Unavailable):
        await shop.ledger.catch_up()
        return True
    return False


async def test_an_answer_is_on_disk(frail_shop: Shop, frail_postgres: PostgresServer) -> None:
    """Four times: kill -9 as soon as a receipt is there; the server comes back with its order."""
    receipts: list[Receipt] = []
    for user_id in await users(frail_shop, 4):
        receipts.append(await frail_shop.ledger.record(order_of(user_id, 1), fence=0))
        frail_postgres.kill()
        await asyncio.to_thread(frail_postgres.restart)

        assert await frail_shop.ledger.find(receipts[-1].order_id) == receipts[-1]

    audit = await frail_shop.ledger.audit()
    assert audit.orders == tuple(receipts)
    assert audit.left[PRODUCT] == 96
