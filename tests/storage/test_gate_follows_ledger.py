"""Random sales with crashes, wipes, rebuildings and cancellations: gate and ledger end as one."""

import asyncio
import random
from collections.abc import Awaitable, Sequence
from dataclasses import replace

import pytest

from labshop.api.shop import Shop
from labshop.locks.wire import Part, Reply
from labshop.ops.reconcile import Reconciler
from labshop.ops.repair import Report
from labshop.shop.domain import Line, Order
from labshop.shop.errors import Refused, Unavailable
from labshop.storage.records import Snapshot
from tests.conftest import either_ledger, users

pytestmark = either_ledger
SEEDS = 25
SEEDS_ON_POSTGRESQL = 8
"""What differs from seed to seed happens at the gate, and a commit there takes longer."""
BUYERS = 30


class Crashed(Exception):
    """The process of this buyer is gone, between two steps."""


async def run_sale(shop: Shop, seed: int, *, crashes: bool, wipes: bool) -> None:
    """Thirty buyers at once; each may die between two steps, the gate may be wiped under them."""
    chance = random.Random(seed)
    fences = iter(range(seed * 1_000 + 1, seed * 1_000 + 1_000))

    async def step() -> None:
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        if crashes and chance.random() < 0.08:
            raise Crashed

    async def buy(user_id: int) -> None:
        lines = [Line(chance.randint(1, 4), chance.randint(1, 2)) for _ in range(2)]
        order = Order.place(user_id, lines)
        await step()
        await shop.inventory.reserve(order)
        await step()
        try:
            receipt = await shop.ledger.record(order, fence=next(fences))
        except Refused:
            await shop.inventory.release(order.id)
            return
        await step()
        await shop.inventory.confirm(receipt)
        await step()
        if chance.random() < 0.3:
            cancelled, sequence = await shop.ledger.cancel(order.id, user_id=user_id, actor="buyer")
            await shop.inventory.put_back(cancelled, sequence)

    async def saboteur() -> None:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(chance.random() / 50)
            await chance.choice([wipe, shop.inventory.gate.rebuild])()

    async def wipe() -> None:
        await shop.node.command("FLUSHALL")

    buyers = [buy(user_id) for user_id in await new_users(shop, seed)]
    await asyncio.gather(*map(survived, buyers), *([saboteur()] if wipes else []))


async def survived(buyer: Awaitable[None]) -> None:
    try:
        await buyer
    except (Crashed, Refused):
        return


async def new_users(shop: Shop, seed: int) -> list[int]:
    accounts = (shop.accounts.create(f"buyer-{seed}-{n}", "!") for n in range(BUYERS))
    return [account.id for account in await asyncio.gather(*accounts)]


async def difference(shop: Shop) -> dict[int, int]:
    """What the gate has left more than the ledger, per product; held units are counted as left."""
    await shop.inventory.gate.heat()
    fields = await shop.node.command("HGETALL", "{sale:1}:gate")
    ledger = (await shop.ledger.snapshot()).left
    gaps = {
        product: int(fields[f"left:{product}"]) + int(fields.get(f"held:{product}", 0)) - units
        for product, units in ledger.items()
    }
    return {product: gap for product, gap in gaps.items() if gap}


@pytest.fixture
async def quiet_shop(shop: Shop) -> Shop:
    """A shop whose own reconciler does nothing; `settle` looks when it is asked to."""

    async def idle() -> None:
        return

    async def leave_it(fence: int) -> Report:
        return Report()

    assert shop.repairer is not None
    shop.reconciler.look = idle  # type: ignore[method-assign]
    shop.repairer.repair = leave_it  # type: ignore[method-assign]
    return shop


def seeds(shop: Shop) -> range:
    return range(SEEDS if shop.settings.database_url is None else SEEDS_ON_POSTGRESQL)


async def settle(shop: Shop) -> None:
    """One look of a reconciler to which every reservation is an old one."""
    await Reconciler(shop.inventory, shop.ledger, reservation_ttl_ms=0).look()


@pytest.mark.parametrize(("crashes", "wipes"), [(False, False), (True, False), (False, True)])
async def test_gate_and_ledger_end_as_one(quiet_shop: Shop, *, crashes: bool, wipes: bool) -> None:
    """Crashes alone and wipes alone leave no difference once abandoned reservations are settled."""
    for seed in seeds(quiet_shop):
        await run_sale(quiet_shop, seed, crashes=crashes, wipes=wipes)
        assert not quiet_shop.inventory.gate.suspect
        quiet_shop.ledger.contradicted = False  # no rebuilding: they must agree without it
        await settle(quiet_shop)

        assert await difference(quiet_shop) == {}, f"seed {seed}"


async def test_crashes_amid_wipes_never_hide_a_unit(quiet_shop: Shop) -> None:
    """Where a buyer dies and its reservation is wiped, the gate may offer too much, never too
    little; the ledger refuses the surplus, and that refusal has the gate built anew.
    """
    gaps: list[int] = []
    [dead] = await users(quiet_shop, 1)
    for seed in seeds(quiet_shop):
        await run_sale(quiet_shop, seed, crashes=True, wipes=True)
        if seed == 0:
            # Once for certain: wiped between reservation and sale, dead before the last step.
            order = Order.place(dead, [Line(1, 1)])
            await quiet_shop.inventory.reserve(order)
            await quiet_shop.node.command("FLUSHALL")
            await quiet_shop.inventory.gate.heat()
            await quiet_shop.ledger.record(order, fence=0)
        quiet_shop.ledger.contradicted = False
        await settle(quiet_shop)
        gaps += (await difference(quiet_shop)).values()
        assert all(gap > 0 for gap in gaps), f"seed {seed}"

        quiet_shop.ledger.contradicted = True
        await settle(quiet_shop)
        assert await difference(quiet_shop) == {}, f"seed {seed}"
    assert gaps, "no reservation of a dead buyer was wiped: nothing was tried"


async def test_a_builder_whose_ticket_got_no_reply_blocks_nobody(quiet_shop: Shop) -> None:
    """The ticket was set and its reply lost: it is handed in, and the next one builds at once."""
    inventory = quiet_shop.inventory
    run = inventory.gate.run

    async def loses_the_reply(script: str, keys: Sequence[str], args: Sequence[Part]) -> Reply:
        reply = await run(script, keys, args)
        if script == "take_ticket":
            raise Unavailable("gate", "no reply")
        return reply

    await quiet_shop.node.command("FLUSHALL")
    inventory.gate.run = loses_the_reply  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="no reply"):
        await inventory.gate.heat()
    inventory.gate.run = run  # type: ignore[method-assign]

    async with asyncio.timeout(2):
        await inventory.gate.heat()


async def test_a_ticket_that_a_power_loss_brought_back_blocks_nobody(quiet_shop: Shop) -> None:
    """The server's older memory holds the ticket and not the gate: its builder builds at once."""
    gate, node = quiet_shop.inventory.gate, quiet_shop.node
    read, tickets = gate.snapshot, list[str]()

    async def seen() -> Snapshot:
        tickets.append(await node.command("GET", gate.ticket))
        return await read()

    gate.snapshot = seen
    await gate.rebuild()
    await node.command("FLUSHALL")
    await node.command("SET", gate.ticket, tickets[0], "PX", 60_000)

    async with asyncio.timeout(2):
        await gate.heat()

    assert tickets[1] != tickets[0]


async def test_control_the_ticket_of_another_builder_is_respected(quiet_shop: Shop) -> None:
    """Control: whoever else reads the ledger for a new gate is waited for."""
    gate, node = quiet_shop.inventory.gate, quiet_shop.node
    await node.command("FLUSHALL")
    await node.command("SET", gate.ticket, "another:1", "PX", 60_000)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await gate.heat()


async def test_control_a_gate_that_ignores_the_sequence_drifts(quiet_shop: Shop) -> None:
    """Control: confirming without the ledger's sequence takes units that were counted before."""
    shop = quiet_shop
    [user_id] = await users(shop, 1)
    order = Order.place(user_id, [Line(1, 4)])
    await shop.inventory.reserve(order)
    receipt = await shop.ledger.record(order, fence=1)
    await shop.inventory.gate.rebuild()

    await shop.inventory.confirm(replace(receipt, sequence=10**9))

    assert await difference(shop) == {1: -4}
