"""The sold-out flag spares the gate the crowd, and no restock is missed because of it."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from itertools import count

import pytest

from labshop.locks import Node
from labshop.locks.wire import Part, Reply
from labshop.shop.domain import Line, Order, Receipt, Sale
from labshop.shop.errors import SoldOut, StockHeld
from labshop.stack.nodes import ServerNode
from labshop.storage.inventory import RedisInventory
from labshop.storage.records import Snapshot
from labshop.storage.sold_out import BELIEVED_MS, SoldOutFlags
from tests.conftest import connected, eventually
from tests.resilience.conftest import OwnedClock

PRODUCT, OTHER = 1, 2
STOCK = 2
BUILT_AT = 10
"""The ledger's newest event when the gate was built."""


class TickingClock(OwnedClock):
    """A clock on which nothing lasts, but no two moments are the same."""

    def now_ms(self) -> float:
        self.ms += 0.001
        return self.ms


@dataclass
class Process:
    """What one process has: a connection of its own, a gate, and flags."""

    node: Node
    inventory: RedisInventory
    clock: TickingClock

    async def reserve(self, *lines: tuple[int, int]) -> Order:
        order = Order.place(1, [Line(*line) for line in lines or [(PRODUCT, 1)]])
        await self.inventory.reserve(order)
        return order

    async def is_refused(self, *lines: tuple[int, int]) -> bool:
        """Whether a buyer is told "sold out"."""
        try:
            order = await self.reserve(*lines)
        except SoldOut:
            return True
        await self.inventory.release(order.id)
        return False

    def is_flagged(self, product_id: int = PRODUCT) -> bool:
        return self.inventory.sold_out.since_ms(product_id) is not None

    async def caught_up(self) -> None:
        """All that the server has published by this moment has been heard."""
        await self.node.command("PING")


@asynccontextmanager
async def process(server: ServerNode) -> AsyncIterator[Process]:
    """A process like another, on the same gate."""
    node, clock = Node(server.url, timeout_ms=2_000), TickingClock()
    yield Process(node, RedisInventory(node, ledger, clock=clock), clock)
    await node.close()


async def ledger() -> Snapshot:
    """What the gate is built from."""
    sale = Sale(1, "sale", datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC), 100)
    return Snapshot(sale, BUILT_AT, {PRODUCT: STOCK, OTHER: STOCK}, {})


@pytest.fixture
async def outside(either_server: ServerNode) -> AsyncIterator[Node]:
    """An empty server, seen by an onlooker."""
    async with connected(either_server) as node:
        yield node


@pytest.fixture
async def here(either_server: ServerNode, outside: Node) -> AsyncIterator[Process]:
    async with process(either_server) as started:
        await started.inventory.gate.heat()
        yield started


@pytest.fixture
async def there(either_server: ServerNode, outside: Node) -> AsyncIterator[Process]:
    """Another process."""
    async with process(either_server) as started:
        yield started


async def sell_out(seller: Process, product_id: int = PRODUCT) -> list[Receipt]:
    """Sell all units of a product, one by one; none is held any more."""
    events = count(BUILT_AT + 1)
    receipts = []
    for _ in range(STOCK):
        order = await seller.reserve((product_id, 1))
        at = datetime.now(UTC)
        receipt = Receipt(order.id, 1, order.lines, 100, 0, next(events), "confirmed", at)
        await seller.inventory.confirm(receipt)
        receipts.append(receipt)
    return receipts


async def scripts_run(outside: Node) -> int:
    """How many scripts the server has run."""
    told = await outside.command("INFO", "commandstats")
    return sum(map(int, re.findall(r"cmdstat_eval(?:sha)?:calls=(\d+)", told)))


@pytest.mark.parametrize(("passes_ms", "asked"), [(0, 1), (BELIEVED_MS, 50)])
async def test_a_crowd_is_refused_without_asking_the_gate(
    here: Process, outside: Node, passes_ms: int, asked: int
) -> None:
    """The first who is refused asks, and no other; where the flag is not believed, they all do."""
    await sell_out(here)
    before = await scripts_run(outside)

    for _ in range(50):
        with pytest.raises(SoldOut) as refusal:
            await here.reserve((OTHER, 1), (PRODUCT, 1))
        assert (refusal.value.product_id, refusal.value.left) == (PRODUCT, 0)
        here.clock.ms += passes_ms

    assert await scripts_run(outside) == before + asked
    assert not await here.is_refused((OTHER, 1))


async def test_units_that_are_held_raise_no_flag(here: Process) -> None:
    """A unit that is held may come back without a restock: the gate is asked each time."""
    held = [await here.reserve(), await here.reserve()]
    with pytest.raises(StockHeld):
        await here.reserve()
    assert await here.is_refused((PRODUCT, STOCK + 1))
    assert not here.is_flagged()

    await here.inventory.release(held[0].id)

    assert not await here.is_refused()


async def put_back(somebody: Process, receipts: list[Receipt]) -> None:
    await somebody.inventory.put_back(receipts[0], BUILT_AT + 1 + STOCK)


async def rebuild(somebody: Process, _receipts: list[Receipt]) -> None:
    await somebody.inventory.gate.rebuild()


RESTOCKS = pytest.mark.parametrize("restock", [put_back, rebuild])
Restock = Callable[[Process, list[Receipt]], Awaitable[None]]


@RESTOCKS
async def test_a_restock_in_another_process_is_sold_at_once(
    here: Process, there: Process, restock: Restock
) -> None:
    """No time passes by this process' clock, and its next buyer has the unit."""
    receipts = await sell_out(here)
    assert await here.is_refused()
    assert here.is_flagged()

    await restock(there, receipts)
    await here.caught_up()

    assert not await here.is_refused()


@RESTOCKS
async def test_control_who_does_not_listen_leaves_units_unsold(
    either_server: ServerNode,
    there: Process,
    restock: Restock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Control: without the message the unit is there and is not sold; then the bound is over."""
    monkeypatch.setattr(SoldOutFlags, "hear", lambda _flags, _gate: None)
    async with process(either_server) as deaf:
        await deaf.inventory.gate.heat()
        receipts = await sell_out(deaf)
        assert await deaf.is_refused()

        await restock(there, receipts)
        await deaf.caught_up()

        assert await deaf.is_refused()
        assert await deaf.inventory.left(PRODUCT) >= 1
        deaf.clock.ms += BELIEVED_MS
        assert not await deaf.is_refused()


@pytest.mark.parametrize("looks_back", [True, False], ids=["protected", "control"])
async def test_an_answer_that_is_read_after_a_restock_raises_no_flag(
    here: Process, there: Process, monkeypatch: pytest.MonkeyPatch, *, looks_back: bool
) -> None:
    """The gate says "sold out", a unit comes back, and only then does the buyer's task go on.

    Control: where an answer raises a flag whatever was heard since, the unit is not sold.
    """
    receipts = await sell_out(here)
    run = here.inventory.gate.run

    async def restocked_meanwhile(script: str, keys: Sequence[str], args: Sequence[Part]) -> Reply:
        answer = await run(script, keys, args)
        await put_back(there, receipts)
        await here.caught_up()
        return answer

    if not looks_back:
        note = here.inventory.sold_out.note
        monkeypatch.setattr(here.inventory.sold_out, "note", lambda it, _: note(it, float("inf")))
    monkeypatch.setattr(here.inventory.gate, "run", restocked_meanwhile)
    assert await here.is_refused()
    monkeypatch.setattr(here.inventory.gate, "run", run)

    assert await here.is_refused() is not looks_back


async def test_a_restock_lowers_the_flag_of_its_product_alone(
    here: Process, there: Process
) -> None:
    """Whoever cancels again and again does not bring the crowd of another product to the gate."""
    receipts = await sell_out(here)
    await sell_out(here, OTHER)
    assert await here.is_refused()
    assert await here.is_refused((OTHER, 1))

    await put_back(there, receipts)
    await here.caught_up()

    assert not here.is_flagged()
    assert here.is_flagged(OTHER)


async def test_flags_fall_with_the_connection(here: Process, there: Process, outside: Node) -> None:
    """A connection that broke may have been bringing a message; over the next one all are heard."""
    receipts = await sell_out(here)
    assert await here.is_refused()

    await outside.command("CLIENT", "KILL", "SKIPME", "yes")
    await eventually(lambda: fallen(here))

    await here.node.ready()
    assert await here.is_refused()
    assert here.is_flagged()
    await put_back(there, receipts)
    await here.caught_up()
    assert not await here.is_refused()


async def fallen(somebody: Process) -> bool:
    return not somebody.is_flagged()


SILENT = {"reserve_stock", "confirm_sale", "lend_units", "release_reservation"}
"""They take units out, or move them from held to left: that is no restock."""


def test_every_script_that_puts_units_on_sale_says_so() -> None:
    """A new way to restock must tell the flags, or it has to be named here with a reason."""
    scripts = [
        path for path in (files("labshop.storage") / "lua").iterdir() if path.name.endswith(".lua")
    ]
    for script in scripts:
        body, name = script.read_text(), script.name.removesuffix(".lua")
        changes = re.search(r"left:<product>", body) and re.search(r"HINCRBY|HSET|RENAME", body)
        if changes and name not in SILENT:
            assert "redis.call('PUBLISH', 'labshop:restock:' .. KEYS[1]" in body, name
    assert {"heat_gate", "return_units"} <= {it.name.removesuffix(".lua") for it in scripts}
