"""What visitors are shown: one load for all, as old as it says, and never what is sold by."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest

from labshop.api.shop import Shop
from labshop.locks import Node, NodeError
from labshop.settings import Settings
from labshop.shop.domain import Line, Order
from labshop.shop.errors import NoSuchProduct, SoldOut, Unavailable
from labshop.stack.faults.network import Network
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from labshop.stack.probe import ask_redis, redis_info
from labshop.storage.replica import LOOK_EVERY_MS, MARKS, Replica
from labshop.storage.stock_reads import StockReads
from tests.conftest import connected, eventually, open_shop, users
from tests.resilience.conftest import OwnedClock

PRODUCT = 1
FOR_EVER_MS = 600_000


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A number is kept until it is invalidated."""
    return settings.model_copy(update={"stock_ttl_ms": FOR_EVER_MS})


class Counted:
    """The gate, and how often it was asked what is left."""

    def __init__(self, shop: Shop) -> None:
        self.sold_out = shop.inventory.sold_out
        self._inventory = shop.inventory
        self.loads = 0

    async def left(self, product_id: int) -> int:
        self.loads += 1
        return await self._inventory.left(product_id)


def reads(shop: Shop, inventory: Counted, *, ttl_ms: float, kept: int = 10) -> StockReads:
    return StockReads(inventory, shop.catalog, clock=shop.clock, ttl_ms=ttl_ms, kept=kept)


async def left(shop: Shop, product_id: int = PRODUCT) -> int:
    return (await shop.stock.look(product_id)).left


async def buy(shop: Shop, user_id: int, units: int = 1) -> Order:
    order = Order.place(user_id, [Line(PRODUCT, units)])
    await shop.inventory.reserve(order)
    await shop.inventory.confirm(await shop.ledger.record(order, fence=0))
    return order


@pytest.mark.parametrize(("ttl_ms", "later_loads"), [(FOR_EVER_MS, 0), (0, 1)])
async def test_a_crowd_that_looks_asks_the_gate_once(
    shop: Shop, ttl_ms: float, later_loads: int
) -> None:
    """A hundred who look together share one load; who comes later has it too while it is kept."""
    gate = Counted(shop)
    stock = reads(shop, gate, ttl_ms=ttl_ms)

    shown = await asyncio.gather(*(stock.look(PRODUCT) for _ in range(100)))
    assert {(it.left, it.source) for it in shown} == {(100, "gate")}
    assert gate.loads == 1

    await stock.look(PRODUCT)
    assert gate.loads == 1 + later_loads


async def test_what_nobody_sells_fills_nothing(shop: Shop) -> None:
    """An unknown product is told so each time and not kept; of the others, the newest are kept."""
    stock = reads(shop, Counted(shop), ttl_ms=FOR_EVER_MS, kept=3)

    for product_id in range(1_000, 1_050):
        with pytest.raises(NoSuchProduct):
            await stock.look(product_id)
    assert not stock._cache._entries
    for product_id in range(1, 11):
        await stock.look(product_id)
    assert list(stock._cache._entries) == [8, 9, 10]


async def test_a_sale_is_shown_when_the_number_is_old_enough(shop: Shop) -> None:
    """A purchase pays nothing for those who look: what they see counts all up to when it says."""
    [user_id] = await users(shop, 1)
    shown = await shop.stock.look(PRODUCT)

    await buy(shop, user_id)

    assert await shop.stock.look(PRODUCT) == shown
    assert shown.left == 100
    assert 0 < shop.stock.age_ms(shown) < FOR_EVER_MS


async def test_sold_out_and_a_restock_are_shown_at_once(shop: Shop) -> None:
    """Whoever was refused here sees 0, whatever was kept; a cancellation shows the unit again."""
    [user_id] = await users(shop, 1)
    await shop.ledger.adjust(PRODUCT, units=1, actor="test")
    await shop.inventory.gate.rebuild()
    assert await left(shop) == 1
    order = await buy(shop, user_id)
    assert await left(shop) == 1

    with pytest.raises(SoldOut):
        await buy(shop, user_id)
    assert await left(shop) == 0

    receipt, sequence = await shop.ledger.cancel(order.id, user_id=user_id, actor="test")
    await shop.inventory.put_back(receipt, sequence)
    assert await left(shop) == 1


async def test_control_who_does_not_hear_of_a_restock_shows_the_old_number(shop: Shop) -> None:
    """Control: a number that nothing invalidates stays for its whole time."""
    shop.inventory.sold_out._told.clear()
    assert await left(shop) == 100

    await shop.ledger.adjust(PRODUCT, units=200, actor="test")
    await shop.inventory.gate.rebuild()

    assert await left(shop) == 100


async def test_the_ledger_is_shown_while_the_gate_is_away(shop: Shop) -> None:
    """Nobody looks in vain, and an unknown product stays unknown."""

    class Away(Counted):
        async def left(self, product_id: int) -> int:
            raise Unavailable("gate", f"nobody can say what is left of {product_id}")

    stock = reads(shop, Away(shop), ttl_ms=0)

    shown = await stock.look(PRODUCT)
    assert (shown.left, shown.source) == (100, "ledger")
    with pytest.raises(NoSuchProduct):
        await stock.look(77)


class Pair:
    """A primary and its replica, with a network between them."""

    def __init__(self, primary: ServerNode, replica: ServerNode, network: Network) -> None:
        self.primary, self.replica, self.network = primary, replica, network

    def link(self) -> str:
        """What the replica itself says of its link."""
        return redis_info(self.replica.port, "replication")["master_link_status"]

    async def follow(self) -> None:
        """Let the replica follow its primary, through the network."""
        port = self.network.port("primary", "replica")
        ask_redis(self.replica.port, f"REPLICAOF 127.0.0.1 {port}")

        async def is_up() -> bool:
            return self.link() == "up"

        await eventually(is_up)


@pytest.fixture(scope="module")
def servers(leash: Leash, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both servers, one pair per worker."""
    folder, server = tmp_path_factory.mktemp("pair"), find_server(None)
    primary = ServerNode(NodeSpec("primary", "primary"), server, folder / "primary", leash)
    replica = ServerNode(NodeSpec("replica", "replica"), server, folder / "replica", leash)
    primary.start()
    replica.start()
    with Network({"primary": primary.port}) as network:
        yield Pair(primary, replica, network)
    replica.stop()
    primary.stop()


@pytest.fixture
async def pair(servers: Pair) -> AsyncIterator[Pair]:
    """An empty primary with its replica, whatever the test before has done to that."""
    if not servers.replica.alive:
        servers.replica.restart()
    await servers.follow()
    async with connected(servers.primary):
        yield servers
    servers.replica.thaw()


@pytest.fixture
async def nodes(pair: Pair) -> AsyncIterator[tuple[Node, Node]]:
    """Connections to primary and replica."""
    primary, replica = (Node(it.url, timeout_ms=500) for it in (pair.primary, pair.replica))
    for node in (primary, replica):
        await node.ready()
    yield primary, replica
    for node in (primary, replica):
        await node.close()


async def is_connected_anew(node: Node) -> bool:
    with suppress(NodeError):
        await node.command("PING")
    return node.connections > 1


async def see(replica: Replica, *, at_most_ms: float) -> None:
    """Measure until the copy is known to be as new as that."""

    async def is_new() -> bool:
        await replica.look()
        return replica.age_ms() <= at_most_ms

    await eventually(is_new)


async def test_the_age_of_a_copy_is_measured(pair: Pair, nodes: tuple[Node, Node]) -> None:
    """It counts from the last moment of the primary that the replica is known to have reached.

    Control: by what the replica says of its link, nothing is wrong with it.
    """
    primary, node = nodes
    clock = OwnedClock()
    replica = Replica(node, primary, "gate", clock=clock, max_age_ms=9_000)
    assert replica.age_ms() == math.inf
    await primary.command("HSET", "gate", "epoch", "e", "left:1", 5)
    await see(replica, at_most_ms=0)
    assert await replica.left(1) == (5, clock.ms)
    known_ms = clock.ms

    with pair.network.partitioned("replica"):
        await primary.command("HSET", "gate", "left:1", 4)
        for seconds in range(1, 10):
            clock.ms += 1_000
            await replica.look()
            assert replica.age_ms() == seconds * 1_000
        assert await replica.left(1) == (5, known_ms)
        assert pair.link() == "up"
        clock.ms += 1
        assert await replica.left(1) is None

    await see(replica, at_most_ms=0)
    assert await replica.left(1) == (4, clock.ms)


async def test_a_long_lag_is_measured_by_bounded_means(
    pair: Pair, nodes: tuple[Node, Node]
) -> None:
    """A replica that is cut off for long is waited for at so many offsets, and found again."""
    primary, node = nodes
    clock = OwnedClock()
    replica = Replica(node, primary, "gate", clock=clock, max_age_ms=9_000)
    await see(replica, at_most_ms=0)

    with pair.network.partitioned("replica"):
        for _ in range(MARKS + 20):
            await primary.command("INCR", "news")
            clock.ms += LOOK_EVERY_MS
            await replica.look()
        assert len(replica._marks) == MARKS
        assert replica.age_ms() == (MARKS + 20) * LOOK_EVERY_MS

    await see(replica, at_most_ms=0)
    assert not replica._marks


async def test_a_copy_of_another_history_is_not_used(pair: Pair, nodes: tuple[Node, Node]) -> None:
    """A replica that goes its own way counts on, and is not taken for the primary's copy."""
    primary, node = nodes
    clock = OwnedClock()
    replica = Replica(node, primary, "gate", clock=clock, max_age_ms=500)
    await primary.command("HSET", "gate", "epoch", "e", "left:1", 5)
    await see(replica, at_most_ms=0)

    await node.command("REPLICAOF", "NO", "ONE")
    for _ in range(50):
        await node.command("INCR", "its own")
    clock.ms += 501
    await replica.look()

    assert replica.age_ms() == 501
    assert await replica.left(1) is None


async def test_a_copy_that_was_started_anew_is_measured_anew(
    pair: Pair, nodes: tuple[Node, Node]
) -> None:
    """What was known of it before its connection broke says nothing about the memory after."""
    primary, node = nodes
    clock = OwnedClock()
    replica = Replica(node, primary, "gate", clock=clock, max_age_ms=500)
    await primary.command("HSET", "gate", "epoch", "e", "left:1", 5)
    await see(replica, at_most_ms=0)

    await asyncio.to_thread(pair.replica.restart)
    await eventually(lambda: is_connected_anew(node))

    assert replica.age_ms() == math.inf
    assert await replica.left(1) is None
    await pair.follow()
    await see(replica, at_most_ms=0)
    assert await replica.left(1) == (5, clock.ms)


@pytest.fixture
async def following(pair: Pair, settings: Settings) -> AsyncIterator[Shop]:
    """A shop whose visitors look at the replica, however old it is; nothing is kept."""
    told = {"replica_url": pair.replica.url, "stock_ttl_ms": 0, "replica_age_ms": FOR_EVER_MS}
    async with open_shop(pair.primary, settings.model_copy(update=told)) as shop:
        await eventually(lambda: shows(shop, 100, "replica"))
        yield shop


async def shows(shop: Shop, units: int, source: str) -> bool:
    shown = await shop.stock.look(PRODUCT)
    return (shown.left, shown.source) == (units, source)


def lag_s(shop: Shop) -> float:
    name = "labshop_replica_lag_seconds "
    lines = shop.metrics.render().decode().splitlines()
    return float(next(line for line in lines if line.startswith(name)).removeprefix(name))


async def test_nothing_is_sold_by_what_a_replica_shows(pair: Pair, following: Shop) -> None:
    """While replication stands still visitors see two units, for so long; both are sold, no third.

    Whoever sold by what is shown would sell the third: it is shown at that very moment.
    """
    shop = following
    buyers = await users(shop, 3)
    await shop.ledger.adjust(PRODUCT, units=2, actor="test")
    await shop.inventory.gate.rebuild()
    await eventually(lambda: shows(shop, 2, "replica"))

    with pair.network.partitioned("replica"):
        v4 = shop.strategies["v4"]
        for user_id in buyers[:2]:
            await v4.buy(Order.place(user_id, [Line(PRODUCT, 1)]))
        shown = await shop.stock.look(PRODUCT)
        assert (shown.left, shown.source) == (2, "replica")
        with pytest.raises(SoldOut):
            await v4.buy(Order.place(buyers[2], [Line(PRODUCT, 1)]))

        async def is_late() -> bool:
            return lag_s(shop) > 0.5

        await eventually(is_late)
        assert shop.stock.age_ms(shown) > 500
        assert not await shows(shop, 0, "replica")
    await eventually(lambda: shows(shop, 0, "replica"))

    async def is_in_time() -> bool:
        return lag_s(shop) < 0.5

    await eventually(is_in_time)
    assert await shop.ledger.sold(PRODUCT) == 2


@pytest.mark.parametrize("fault", ["partitioned", "frozen", "killed"])
async def test_a_replica_that_is_too_old_is_not_asked(
    pair: Pair, settings: Settings, fault: str
) -> None:
    """The primary shows the stock instead, and the replica again when it has caught up."""
    told = {"replica_url": pair.replica.url, "stock_ttl_ms": 0, "replica_age_ms": 300}
    own = settings.model_copy(update=told | {"node_timeout_ms": 200})
    async with open_shop(pair.primary, own) as shop:
        [user_id] = await users(shop, 1)
        await eventually(lambda: shows(shop, 100, "replica"))
        with pair.network.partitioned("replica" if fault == "partitioned" else "nobody"):
            if fault == "frozen":
                pair.replica.freeze()
            elif fault == "killed":
                pair.replica.kill()
            await buy(shop, user_id)
            await eventually(lambda: shows(shop, 99, "gate"))
            pair.replica.thaw()
        if fault == "killed":
            await asyncio.to_thread(pair.replica.restart)
            await pair.follow()
        await eventually(lambda: shows(shop, 99, "replica"))


async def test_without_a_replica_there_is_no_lag(shop: Shop) -> None:
    """The series is there, and no alarm can come of it."""
    assert math.isnan(lag_s(shop))
