"""A gate is built in parts: it is whole or not there, whatever happens between two parts."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from labshop.api.shop import Shop
from labshop.clock import SystemClock
from labshop.locks import Node
from labshop.locks.wire import Part, Reply
from labshop.shop.domain import Line, Order
from labshop.shop.errors import LimitReached
from labshop.storage import gate as module
from labshop.storage import inventory
from labshop.storage.gate import Gate
from labshop.storage.records import Snapshot
from tests.conftest import eventually, users

SALE = 7
"""A sale whose gate nobody else looks after."""


@dataclass
class Ledger:
    """What a builder reads; a test sells from it."""

    seen: Snapshot
    readings: int = 0
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def snapshot(self) -> Snapshot:
        self.readings += 1
        seen = self.seen
        self.reading.set()
        await self.go_on.wait()
        return seen

    def sell(self) -> None:
        left = {product: units - 1 for product, units in self.seen.left.items()}
        self.seen = Snapshot(self.seen.sale, self.seen.sequence + 1, left, self.seen.bought)


class Pausing(Gate):
    """A gate whose builder stops behind its first part, until it is told to go on."""

    def __init__(self, node: Node, ledger: Ledger) -> None:
        super().__init__(node, ledger.snapshot, clock=SystemClock(), sale_id=SALE)
        self.filled, self.go_on = asyncio.Event(), asyncio.Event()

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Part]) -> Reply:
        reply = await super().run(script, keys, args)
        if script == "fill_gate" and not self.filled.is_set():
            self.filled.set()
            await self.go_on.wait()
        return reply


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_SIZE", 3)


@pytest.fixture
async def ledger(shop: Shop) -> Ledger:
    """Ten products, and twenty users who have bought; nobody is kept from reading it."""
    real = await shop.ledger.snapshot()
    bought = {user_id: 1 + user_id % 3 for user_id in range(100, 120)}
    ledger = Ledger(Snapshot(real.sale, 5, real.left, bought, {"token": real.sale.closes_at}))
    ledger.go_on.set()
    return ledger


@pytest.fixture
async def builder(shop: Shop, ledger: Ledger) -> AsyncIterator[Pausing]:
    """A builder with a connection of its own."""
    node = Node(f"redis://{shop.node.host}:{shop.node.port}", timeout_ms=2_000)
    yield Pausing(node, ledger)
    await node.close()


async def built(gate: Gate) -> dict[str, dict[str, str]]:
    """What stands at the gate: units left, and units bought."""
    fields = await gate.node.command("HGETALL", gate.key)
    left = {name: units for name, units in fields.items() if name.startswith("left:")}
    return {"left": left, "bought": await gate.node.command("HGETALL", gate.bought)}


def expected(ledger: Ledger) -> dict[str, dict[str, str]]:
    return {
        "left": {f"left:{product}": str(units) for product, units in ledger.seen.left.items()},
        "bought": {str(user): str(units) for user, units in ledger.seen.bought.items()},
    }


async def keys_of(gate: Gate) -> dict[str, int]:
    """The keys of the sale, and how many milliseconds each will stay; -1 is for ever."""
    keys = await gate.node.command("KEYS", f"{gate.tag}:*")
    return {key: await gate.node.command("PTTL", key) for key in keys}


async def test_a_gate_of_many_parts_is_whole_and_stays(builder: Pausing, ledger: Ledger) -> None:
    """All parts are put in their place at once, for ever, and nothing is left beside them."""
    builder.go_on.set()

    await builder.heat()

    assert await built(builder) == expected(ledger)
    assert await keys_of(builder) == dict.fromkeys(
        (builder.key, builder.bought, builder.revoked), -1
    )
    assert await builder.node.command("ZRANGE", builder.revoked, 0, -1) == ["token"]


async def test_tokens_taken_back_during_the_building_stay_refused(
    builder: Pausing, ledger: Ledger
) -> None:
    """Whoever signs out between two parts is not forgotten when the parts are put in place."""
    building = asyncio.create_task(builder.heat())
    await builder.filled.wait()
    await builder.run("revoke_token", (builder.revoked,), ("newer", 2**40))
    builder.go_on.set()
    await building

    assert set(await builder.node.command("ZRANGE", builder.revoked, 0, -1)) == {"token", "newer"}


async def test_a_gate_without_buyers_forgets_those_of_the_one_before(
    builder: Pausing, ledger: Ledger
) -> None:
    """What a dropped gate knew of its buyers does not count in the next."""
    builder.go_on.set()
    await builder.heat()
    ledger.seen = Snapshot(ledger.seen.sale, 6, ledger.seen.left, {})

    await builder.rebuild()

    assert await built(builder) == expected(ledger)


async def test_a_builder_that_died_between_two_parts_leaves_nothing_for_ever(
    builder: Pausing, shop: Shop, ledger: Ledger
) -> None:
    """Half a gate is no gate: it does not sell, all of it ends by itself, and another builds."""
    building = asyncio.create_task(builder.heat())
    await builder.filled.wait()
    # Its process is gone: nothing that it would still say reaches the server.
    await builder.node.close()
    building.cancel()
    await asyncio.gather(building, return_exceptions=True)
    another = Gate(shop.node, ledger.snapshot, clock=SystemClock(), sale_id=SALE)

    asked = ("order", 100, "", 1, 1)
    names = (another.key, another.bought, another.held, f"{another.tag}:order", another.revoked)
    assert await another.run("reserve_stock", names, asked) == ["cold"]
    left_behind = await keys_of(another)
    assert len(left_behind) == 2
    assert all(0 < stays_ms <= module.PARTS_MS for stays_ms in left_behind.values())

    await another.rebuild()
    assert await built(another) == expected(ledger)


async def test_a_memory_lost_between_two_parts_has_the_ledger_read_anew(
    builder: Pausing, ledger: Ledger
) -> None:
    """What was read before the loss is not used, also where only some of it had been filled in."""
    building = asyncio.create_task(builder.heat())
    await builder.filled.wait()
    ledger.sell()
    await builder.node.command("FLUSHALL")
    builder.go_on.set()
    await building

    assert ledger.readings == 2
    assert await built(builder) == expected(ledger)


async def test_an_older_memory_that_lacks_a_part_is_not_put_in_place(
    builder: Pausing, ledger: Ledger
) -> None:
    """A server that lost its power comes back with the ticket and without the newest part."""
    building = asyncio.create_task(builder.heat())
    await builder.filled.wait()
    await lose_the_parts(builder)
    builder.go_on.set()
    await building

    assert ledger.readings == 2
    assert await built(builder) == expected(ledger)


async def test_control_a_gate_that_is_not_counted_lacks_what_was_lost(
    builder: Pausing, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: whoever takes what there is for all of it sells from half a gate."""
    run = builder.run

    async def uncounted(script: str, keys: Sequence[str], args: Sequence[Part]) -> Reply:
        if script == "heat_gate":
            there = [await builder.node.command("HLEN", key) for key in keys[5:7]]
            args = (*args[:-3], *there, args[-1])
        return await run(script, keys, args)

    monkeypatch.setattr(builder, "run", uncounted)
    building = asyncio.create_task(builder.heat())
    await builder.filled.wait()
    await lose_the_parts(builder)
    builder.go_on.set()
    await building

    assert ledger.readings == 1
    assert len((await built(builder))["left"]) == 7


async def lose_the_parts(gate: Gate) -> None:
    """Whatever has been filled in is gone, and the ticket is not."""
    parts = [key for key in await keys_of(gate) if key != gate.ticket]
    assert parts
    await gate.node.command("DEL", *parts)


async def test_a_builder_that_was_overtaken_between_two_parts_adds_nothing(
    builder: Pausing, shop: Shop, ledger: Ledger
) -> None:
    """A gate that was built anew meanwhile stays as it is: parts that come late are refused."""
    building = asyncio.create_task(builder.heat())
    await builder.filled.wait()
    ledger.sell()
    another = Gate(shop.node, ledger.snapshot, clock=SystemClock(), sale_id=SALE)
    await another.rebuild()
    epoch = await another.ask("HGET", another.key, "epoch")
    builder.go_on.set()
    await building

    assert await built(another) == expected(ledger)
    assert await another.ask("HGET", another.key, "epoch") == epoch
    assert ledger.readings == 2


async def test_a_ticket_is_kept_while_the_ledger_is_read(
    builder: Pausing, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a large ledger takes longer than a ticket lasts, and nobody else begins meanwhile."""
    await outlast_a_ticket(builder, ledger, monkeypatch)

    assert ledger.readings == 1
    assert await built(builder) == expected(ledger)


async def test_control_a_ticket_that_is_not_kept_is_gone_before_the_reading(
    builder: Pausing, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: without its keeper, the ticket ends, and the ledger has to be read once more."""

    async def keep_nothing(_ticket: str) -> None:
        return

    monkeypatch.setattr(builder, "_keep", keep_nothing)
    await outlast_a_ticket(builder, ledger, monkeypatch)

    assert ledger.readings == 2


async def outlast_a_ticket(
    builder: Pausing, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read for longer than a ticket lasts by itself, by the server's own clock."""
    monkeypatch.setattr(module, "TICKET_MS", 300)
    ledger.go_on.clear()
    builder.go_on.set()
    building = asyncio.create_task(builder.heat())
    await ledger.reading.wait()
    await builder.node.command("SET", "yardstick", "", "PX", 600)

    async def is_over() -> bool:
        return not await builder.node.command("EXISTS", "yardstick")

    await eventually(is_over)
    ledger.go_on.set()
    await building


async def sell_during_a_building(shop: Shop) -> str:
    """Reserved, and booked while the gate is built from before it; returns the gate's epoch."""
    [user_id] = await users(shop, 1)
    order = Order.place(user_id, [Line(1, 4)])
    await shop.inventory.reserve(order)
    reading, go_on = asyncio.Event(), asyncio.Event()
    snapshot = shop.ledger.snapshot

    async def slow_snapshot() -> Snapshot:
        seen = await snapshot()
        reading.set()
        await go_on.wait()
        return seen

    shop.inventory.gate.snapshot = slow_snapshot
    building = asyncio.create_task(shop.inventory.gate.rebuild())
    await reading.wait()
    shop.inventory.gate.snapshot = snapshot
    shop.inventory.confirm_soon(await shop.ledger.record(order, fence=0))
    # Behind it on the same connection, so that the sale has been told to no gate by then.
    await asyncio.sleep(0)
    await shop.node.command("PING")
    go_on.set()
    await building
    return str(await shop.node.command("HGET", shop.inventory.gate.key, "epoch"))


async def test_a_sale_that_falls_into_a_building_does_not_cause_the_next(shop: Shop) -> None:
    """It is told to the new gate as soon as that is there, and nobody else is sent away for it."""
    epoch = await sell_during_a_building(shop)

    async def is_told() -> bool:
        return await shop.inventory.unsold(1) == 96

    await eventually(is_told)
    assert not shop.inventory.gate.suspect
    assert await shop.node.command("HGET", shop.inventory.gate.key, "epoch") == epoch


async def test_control_a_sale_that_is_told_once_makes_the_gate_suspect(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: told only while there is no gate, it has the new one built anew at once."""
    monkeypatch.setattr(inventory, "COLD_TRIES", 0)
    epoch = await sell_during_a_building(shop)

    async def is_another() -> bool:
        return bool(await shop.node.command("HGET", shop.inventory.gate.key, "epoch") != epoch)

    await eventually(is_another)


async def test_a_refusal_during_a_building_does_not_cause_the_next(shop: Shop) -> None:
    """Whom the ledger refuses meanwhile had passed the old gate; a later refusal has one built."""
    [user_id] = await users(shop, 1)
    too_much = [Line(1, 11)]
    reading, go_on, readings = asyncio.Event(), asyncio.Event(), 0
    snapshot = shop.ledger.snapshot

    async def slow_snapshot() -> Snapshot:
        nonlocal readings
        readings += 1
        reading.set()
        await go_on.wait()
        return await snapshot()

    shop.inventory.gate.snapshot = slow_snapshot
    shop.ledger.contradicted = True
    await reading.wait()
    with pytest.raises(LimitReached):
        await shop.ledger.record(Order.place(user_id, too_much), fence=0)
    go_on.set()

    async def is_settled() -> bool:
        return not shop.ledger.contradicted

    await eventually(is_settled)
    await shop.reconciler.look()
    assert readings == 1

    with pytest.raises(LimitReached):
        await shop.ledger.record(Order.place(user_id, too_much), fence=0)
    await shop.reconciler.look()
    assert readings == 2
