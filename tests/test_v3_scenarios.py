"""The roadmap's scenarios for stage v3, by name, each beside its control."""

import asyncio
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from labshop.api.shop import Shop, build_shop, running
from labshop.lab.trial import Arena, try_out
from labshop.lab.trial.scenarios import QUORUM
from labshop.locks import LockError, Node, NoQuorum, Redlock
from labshop.settings import Settings
from labshop.shop.domain import Line, Order
from labshop.shop.errors import PurchaseError, Unavailable
from labshop.stack.faults.clocks import clock_offset
from labshop.stack.faults.network import Network
from labshop.stack.faults.processes import killed
from labshop.stack.faults.shim import hurtable
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from labshop.stack.ports import LOOPBACK
from labshop.stages import v2_multilock
from labshop.stages.v3_redlock import Purchase
from tests.conftest import SETTLE_S, connected, eventually, users

PRODUCT = 1
TTL_MS = 1_000
NAMES = [f"lock-{number}" for number in range(1, 6)]


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Arena() as arena:
        yield arena


@pytest.fixture(scope="module")
def masters(leash: Leash, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerNode]]:
    """Five independent masters."""
    home = tmp_path_factory.mktemp("masters")
    server = find_server(None)
    nodes = []
    for name in NAMES:
        spec, folder = NodeSpec(name, "lock"), home / name
        node = ServerNode(spec, server, folder, leash, env=hurtable(folder))
        node.start()
        nodes.append(node)
    yield nodes
    for node in nodes:
        node.stop()


@pytest.fixture
def network(masters: list[ServerNode]) -> Iterator[Network]:
    """Ways to the masters, through a proxy each."""
    with Network({node.spec.name: node.port for node in masters}) as network:
        yield network


@pytest.fixture
async def quorum_shop(
    valkey: ServerNode, settings: Settings, network: Network
) -> AsyncIterator[Shop]:
    """A shop that locks on the five masters."""
    urls = ",".join(f"redis://{LOOPBACK}:{network.port(name, 'shop')}" for name in NAMES)
    own = settings.model_copy(update={"lock_urls": urls, "lock_ttl_ms": TTL_MS})
    async with connected(valkey):
        pass
    async with running(build_shop(own, gate_url=valkey.url)) as shop:
        async with asyncio.timeout(SETTLE_S):
            await shop.opened.wait()
        # Masters that were restarted by the test before have no vote for one time to live.
        await eventually(lambda: all_vote(shop))
        yield shop


async def all_vote(shop: Shop) -> bool:
    for node in shop.lock_nodes:
        try:
            await node.ready()
        except LockError:
            return False
    return all(node.young_for_ms(TTL_MS) <= 0 for node in shop.lock_nodes)


async def buy(shop: Shop, user: int) -> str:
    try:
        await Purchase(shop.toolbox()).buy(Order.place(user, [Line(PRODUCT, 1)]))
    except (PurchaseError, LockError) as end:
        return type(end).__name__
    return "sold"


async def buy_all(shop: Shop, buyers: list[int]) -> Counter[str]:
    return Counter(await asyncio.gather(*(buy(shop, user) for user in buyers)))


async def books(shop: Shop) -> tuple[int, int, int]:
    """Units left at the gate, units left in SQL, units sold by the orders in SQL."""
    snapshot = await shop.ledger.snapshot()
    left = await shop.inventory.left(PRODUCT)
    return left, snapshot.left[PRODUCT], sum(snapshot.bought.values())


@asynccontextmanager
async def dead(nodes: list[ServerNode]) -> AsyncIterator[None]:
    async with AsyncExitStack() as faults:
        for node in nodes:
            faults.enter_context(killed(node))
        yield


@pytest.mark.parametrize("lost", [1, 2])
async def test_s46_with_one_or_two_of_five_nodes_dead_it_sells_on(
    quorum_shop: Shop, masters: list[ServerNode], lost: int
) -> None:
    """S46, S52: one or two masters are killed: every buyer gets a unit all the same."""
    buyers = await users(quorum_shop, 30)
    async with dead(masters[:lost]):
        assert await buy_all(quorum_shop, buyers) == {"sold": 30}
    assert await books(quorum_shop) == (70, 70, 30)


async def test_s46_with_three_dead_it_refuses_and_recovers(
    quorum_shop: Shop, masters: list[ServerNode]
) -> None:
    """With three masters dead nothing is sold and nothing lost; one comes back, and it sells on."""
    tools = quorum_shop.toolbox()
    buyers = await users(quorum_shop, 10)
    async with dead(masters[:2]):
        async with dead(masters[2:3]):
            with pytest.raises(NoQuorum) as refusal:
                async with tools.quorum_lock(f"product:{PRODUCT}").hold(wait_ms=300):
                    pytest.fail("a minority granted a lock")
            assert len(refusal.value.nodes) == 3
            assert refusal.value.definite
        assert await books(quorum_shop) == (100, 100, 0)
        # The third is back, and has a vote one time to live later: the buyers wait so long.
        assert await buy_all(quorum_shop, buyers) == {"sold": 10}
    assert await books(quorum_shop) == (90, 90, 10)


async def test_s46_control_a_lock_on_one_node_dies_with_it(
    quorum_shop: Shop, masters: list[ServerNode]
) -> None:
    """Control: v2's lock on one of the masters is not to be had while that one is dead."""
    [user] = await users(quorum_shop, 1)
    quorum_shop.node, gate = quorum_shop.lock_nodes[0], quorum_shop.node
    stage = v2_multilock.Purchase(quorum_shop.toolbox())
    async with dead(masters[:1]):
        with pytest.raises(LockError):
            await stage.buy(Order.place(user, [Line(PRODUCT, 1)]))
    quorum_shop.node = gate


async def test_s47_only_the_larger_side_of_a_partition_can_lock(
    masters: list[ServerNode], network: Network
) -> None:
    """S47: with the net in two halves, the side of three masters locks, the side of two cannot."""
    sides = {"ada": NAMES[:3], "bob": NAMES[3:]}
    locks = {}
    async with AsyncExitStack() as closing:
        for client in sides:
            nodes = [
                Node(f"redis://{LOOPBACK}:{network.port(name, client)}", timeout_ms=200)
                for name in NAMES
            ]
            for node in nodes:
                closing.push_async_callback(node.close)
            locks[client] = Redlock(nodes, "partition", ttl_ms=TTL_MS, quarantine_ms=0)
        with network.partitioned({"ada", *sides["ada"]}, {"bob", *sides["bob"]}):
            async with locks["ada"].hold(wait_ms=500) as lease:
                assert lease.remaining_ms() > 0
                with pytest.raises(NoQuorum) as refusal:
                    await locks["bob"].acquire(wait_ms=0)
                unreachable = {f"{LOOPBACK}:{network.port(name, 'bob')}" for name in sides["ada"]}
                assert set(refusal.value.nodes) == unreachable
        # Control: healed, the other side can lock as well.
        async with locks["bob"].hold(wait_ms=2_000):
            pass


@pytest.mark.parametrize(
    ("jump_ms", "both"), [(TTL_MS * 0.009, False), (TTL_MS * 10, True)], ids=["inside", "outside"]
)
async def test_s48_clock_skew_is_covered_inside_the_allowance_only(
    quorum_shop: Shop, masters: list[ServerNode], jump_ms: float, *, both: bool
) -> None:
    """S48: a jump within ttl * drift_factor + 2 ms costs nothing; a larger one breaks exclusion.

    The clocks of three masters jump while the lease is held; another process asks again and again
    until that lease is over.
    """
    urls = [node.url for node in masters]
    elsewhere = [Node(url, timeout_ms=200) for url in urls]
    first = Redlock(quorum_shop.lock_nodes, "skew", ttl_ms=TTL_MS, quarantine_ms=0)
    second = Redlock(elsewhere, "skew", ttl_ms=TTL_MS, quarantine_ms=0)
    lease = await first.acquire(wait_ms=1_000)
    async with AsyncExitStack() as faults:
        for node in masters[:3]:
            faults.enter_context(clock_offset(node, int(jump_ms)))
        overlap = False
        while lease.remaining_ms() > 5 and not overlap:
            try:
                other = await second.acquire(wait_ms=0)
            except LockError:
                continue
            overlap = lease.remaining_ms() > 0
            await other.holding.end()
    assert overlap is both
    await lease.holding.end()
    for other_node in elsewhere:
        await other_node.close()


@pytest.mark.parametrize("name", QUORUM)
async def test_s47_whatever_befalls_the_masters_the_judge_finds_nothing(
    arena: Arena, name: str
) -> None:
    """Killed, frozen, forgetful, cut off, far away: the sale is VALID, and exclusion holds."""
    trial = await try_out(Purchase, QUORUM[name], arena=arena, seed=1)

    assert trial.verdict.outcome == "VALID", str(trial)
    assert trial.skipped == ()
    assert sum(buy.outcome == "ok" for buy in trial.history.of("buy")) == 20


async def test_s49_a_crowd_of_five_hundred_is_served(quorum_shop: Shop) -> None:
    """S49: of 500 buyers at once on one product, 100 get a unit, and 400 are told the truth."""
    buyers = await users(quorum_shop, 500)
    assert await buy_all(quorum_shop, buyers) == {"sold": 100, "SoldOut": 400}
    assert await books(quorum_shop) == (0, 0, 100)


async def test_fences_come_from_the_ledger_and_grow(
    quorum_shop: Shop, masters: list[ServerNode]
) -> None:
    """Each lease has a larger fence than the last, also when all masters have forgotten all."""
    fences = []
    for _ in range(4):
        async with quorum_shop.quorum_lock("product:1").hold(wait_ms=5_000) as lease:
            fences.append(lease.fence)
        for node in quorum_shop.lock_nodes:
            await node.command("FLUSHALL")
    assert fences == sorted(set(fences))
    assert fences[0] > 0


async def test_without_lock_nodes_it_says_so(shop: Shop) -> None:
    """A shop that was given no lock nodes refuses, and says what is missing."""
    [user] = await users(shop, 1)
    with pytest.raises(Unavailable, match="LABSHOP_LOCK_URLS"):
        await Purchase(shop.toolbox()).buy(Order.place(user, [Line(PRODUCT, 1)]))


async def test_s54_with_100_ms_of_delay_a_lock_takes_one_round_trip(
    quorum_shop: Shop, network: Network
) -> None:
    """S54: all masters are 100 ms away; a lock costs one of these, for all are asked at once.

    A control beside it: who asks one after the other pays for three.
    """
    lock = quorum_shop.quorum_lock("far away")
    waits: list[float] = []
    clock = quorum_shop.clock
    with network.delayed(100, client="shop"):
        for _ in range(3):
            asked_ms = clock.now_ms()
            async with lock.hold(wait_ms=5_000) as lease:
                waits.append(clock.now_ms() - asked_ms)
                assert lease.remaining_ms() > TTL_MS / 2
        asked_ms = clock.now_ms()
        for node in quorum_shop.lock_nodes[:3]:
            await node.command("PING")
        one_by_one_ms = clock.now_ms() - asked_ms
    assert 100 <= statistics.median(waits) < one_by_one_ms
    assert one_by_one_ms >= 300
