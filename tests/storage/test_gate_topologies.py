"""A gate fails over in mid-sale, to a replica that lacks what was sold last; the ledger judges."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from sqlmodel import select

from labshop.api.shop import Shop, build_shop, running
from labshop.errors import SetupError
from labshop.locks import NodeRefused
from labshop.locks.slots import slot_of
from labshop.settings import Settings
from labshop.shop.domain import Line, Order, Receipt
from labshop.shop.errors import Refused, SoldOut, Unavailable
from labshop.stack.cluster import ServerCluster
from labshop.stack.nodes import ServerNode
from labshop.stack.probe import ask_redis
from labshop.stack.sentinels import SentinelPair
from labshop.storage.gate import Gate, tag_of
from labshop.storage.tables import Purchase
from tests.conftest import SETTLE_S, eventually, users
from tests.topologies import replicated_cluster

RUSH, CALM = 1, 2
"""Products: one that is sold out, and one of which some is left."""
STOCK = 100
SALE = slot_of(tag_of(1))

Topology = Callable[[Path], AbstractContextManager["Gates"]]


@dataclass(frozen=True)
class Gates:
    """Where the shops find the gate, who has it, and who takes over."""

    url: str
    master: ServerNode
    replica: ServerNode

    def cut_off(self) -> None:
        """From here on, the replica hears nothing of its master."""
        self.replica.freeze()
        # What is under way to it must not wait in its socket until it wakes.
        ask_redis(self.master.port, "CLIENT KILL TYPE replica")

    def fail_over(self) -> None:
        """The master dies; its replica is promoted by those who watch."""
        self.master.kill()
        self.replica.thaw()


@contextmanager
def sentinel(home: Path) -> Iterator[Gates]:
    with SentinelPair(home) as pair:
        yield Gates(pair.url, pair.primary, pair.replica)


@contextmanager
def cluster(home: Path) -> Iterator[Gates]:
    with replicated_cluster(home) as servers:
        number = servers.owner(SALE)
        yield Gates(servers.url, servers.masters[number], servers.replicas[number])


@asynccontextmanager
async def two_shops(settings: Settings, url: str) -> AsyncIterator[tuple[Shop, Shop]]:
    """Two shops on one ledger and one gate, once they can sell."""
    async with AsyncExitStack() as opened:
        shops = [build_shop(settings, gate_url=url) for _ in range(2)]
        for shop in shops:
            await opened.enter_async_context(running(shop))
            async with asyncio.timeout(SETTLE_S):
                await shop.opened.wait()
        yield shops[0], shops[1]


@pytest.mark.parametrize("topology", [sentinel, cluster])
async def test_a_sale_survives_a_failover(
    topology: Topology,
    settings: Settings,
    tmp_path: Path,
) -> None:
    """The master dies in mid-sale, and its replica does not know of the last units sold: as many
    are sold as there are, each acknowledged order is in the ledger, and the gate agrees with it.
    """
    with topology(tmp_path / "gates") as gates:
        async with two_shops(settings, gates.url) as (here, there):
            buyers = iter(await users(here, 130))

            def crowd(count: int, product: int) -> list["asyncio.Task[Receipt | None]"]:
                both = (here, there)
                return [
                    asyncio.create_task(bought(both[n % 2], next(buyers), product))
                    for n in range(count)
                ]

            receipts = await asyncio.gather(*crowd(20, RUSH), *crowd(5, CALM))
            gates.cut_off()
            receipts += await asyncio.gather(*crowd(20, RUSH), *crowd(5, CALM))
            rush = crowd(20, RUSH)
            await asyncio.wait(rush, return_when=asyncio.FIRST_COMPLETED)
            gates.fail_over()
            receipts += await asyncio.gather(*rush, *crowd(50, RUSH), *crowd(10, CALM))

            assert here.node.port == there.node.port == gates.replica.port
            acknowledged = {receipt.order_id for receipt in receipts if receipt is not None}
            assert await orders_of(here) == acknowledged
            assert len(acknowledged) == STOCK + 20
            left = (await here.ledger.snapshot()).left
            assert (left[RUSH], left[CALM]) == (0, STOCK - 20)
            await eventually(lambda: agrees(here))


@pytest.mark.parametrize("topology", [sentinel, cluster])
async def test_the_memory_of_a_replica_is_not_believed(
    topology: Topology,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first answer of the new master is from a gate that was built from the ledger.

    Control: a shop that does not compare offers what was sold again, until the ledger refuses.
    """
    with topology(tmp_path / "gates") as gates:
        async with two_shops(settings, gates.url) as (compares, believes):
            for shop in (compares, believes):
                shop.reconciler.look = idle  # type: ignore[method-assign]  # it would repair the gate
            gates.cut_off()
            for user in await users(compares, 5):
                await bought(compares, user, CALM)
            await eventually(lambda: has_sold(compares, 5))
            gates.fail_over()

            with monkeypatch.context() as control:
                control.setattr(Gate, "_compare_memory", believe)
                assert await unsold(believes) == STOCK
            assert await unsold(compares) == STOCK - 5


async def test_locks_live_beside_a_gate_in_a_cluster(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stages v1 and v2 buy, all keys have the gate's slot, and a waiter of the other shop is woken.

    Control: by its name alone a lock has a slot of its own, which another master has.
    """
    monkeypatch.setattr("labshop.locks.claim.LOOK_AGAIN_MS", 60_000)
    monkeypatch.setattr("labshop.locks.claim.ALIVE_MS", 60_000)
    with ServerCluster(tmp_path / "gates") as servers:
        async with two_shops(settings, servers.url) as (here, there):
            [buyer] = await users(here, 1)
            bundle = Order.place(buyer, [Line(RUSH, 1), Line(CALM, 2)])
            receipt = await here.strategies["v2"].buy(bundle)
            single = await there.strategies["v1"].buy(Order.place(buyer, [Line(RUSH, 1)]))
            assert single.fence > receipt.fence > 0
            keys = await here.node.command("KEYS", "*")
            assert {slot_of(key) for key in keys} == {SALE}
            assert any(key.startswith("lock:") for key in keys)

            async with here.lock("door", "window").hold(wait_ms=0):
                waiting = asyncio.create_task(held(there, "door"))
                await eventually(lambda: is_waited_for(there))
            async with asyncio.timeout(SETTLE_S / 2):
                await waiting

            here.node.has_one_slot = False
            foreign = next(it for it in "abc" if servers.owner(slot_of(it)) != servers.owner(SALE))
            with pytest.raises(NodeRefused, match="MOVED"):
                await held(here, foreign)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis+sentinel://shop:secret@127.0.0.1:1", "names no service"),
        ("redis+cluster://shop:secret@127.0.0.1:1/2", "database 0 only"),
        ("redis+other://shop:secret@127.0.0.1:1", "begins with none of"),
    ],
)
def test_a_gate_that_cannot_be_meant_is_refused(url: str, reason: str, settings: Settings) -> None:
    """The sentence names the setting, says what is wrong, and quotes no password."""
    with pytest.raises(SetupError, match=reason) as refusal:
        build_shop(settings, gate_url=url)

    assert "LABSHOP_GATE_URL" in str(refusal.value)
    assert "secret" not in str(refusal.value)


async def bought(shop: Shop, user: int, product: int) -> Receipt | None:
    """A buyer who comes again until it is sold or sold out."""
    while True:
        try:
            return await shop.strategies["v4"].buy(Order.place(user, [Line(product, 1)]))
        except SoldOut:
            return None
        except Refused:
            await shop.clock.sleep_ms(20)


async def has_sold(shop: Shop, units: int) -> bool:
    """Whether the gate has been told."""
    return await shop.inventory.unsold(CALM) == STOCK - units


async def unsold(shop: Shop) -> int:
    """What the gate has of the calm product, as soon as it answers."""
    while True:
        try:
            return await shop.inventory.unsold(CALM)
        except Unavailable:
            await shop.clock.sleep_ms(20)


async def orders_of(shop: Shop) -> set[UUID | None]:
    """Ids of all orders in the ledger."""
    return set(await shop.database.read(lambda session: session.scalars(select(Purchase.id)).all()))


async def agrees(shop: Shop) -> bool:
    """Whether gate and ledger have as much of everything, and nothing is held."""
    fields = await shop.node.command("HGETALL", shop.inventory.gate.key)
    left = (await shop.ledger.snapshot()).left
    held = [int(units) for name, units in fields.items() if name.startswith("held:")]
    return not any(held) and all(
        int(fields.get(f"left:{product}", -1)) == units for product, units in left.items()
    )


async def held(shop: Shop, name: str) -> None:
    async with shop.lock(name).hold(wait_ms=60_000):
        pass


async def is_waited_for(shop: Shop) -> bool:
    return bool(await shop.node.command("KEYS", "lock:*:queue"))


async def believe(gate: Gate) -> None:
    """Take any memory for the one in which the gate was built."""
    gate._believed_connection = gate.node.connections


async def idle(*_: object) -> None:
    return
