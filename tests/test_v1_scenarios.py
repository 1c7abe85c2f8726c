"""The roadmap's scenarios for stage v1, by name, each beside its control."""

import asyncio
import signal
import sys
from collections import Counter
from dataclasses import replace
from uuid import UUID

import pytest

from labshop.api.shop import Shop
from labshop.shop.domain import Line, Order, Receipt
from labshop.shop.errors import PurchaseError, SoldOut, Unavailable
from labshop.stages.v1_setnx import Purchase
from labshop.storage.database import Database
from tests.conftest import either_ledger, eventually, users
from tests.ledgers import other_program

PRODUCT = 1


async def buy_all(shop: Shop, count: int, *, quantity: int = 1) -> Counter[str]:
    """So many users buy at the same moment; returns how often each outcome was met."""

    async def buy(user_id: int) -> str:
        try:
            await Purchase(shop.toolbox()).buy(Order.place(user_id, [Line(PRODUCT, quantity)]))
        except PurchaseError as refusal:
            return type(refusal).__name__
        return "sold"

    return Counter(await asyncio.gather(*map(buy, await users(shop, count))))


async def books(shop: Shop) -> tuple[int, int, int]:
    """Units left in Redis, units left in SQL, units sold by the orders in SQL."""
    snapshot = await shop.ledger.snapshot()
    return (
        await shop.inventory.left(PRODUCT),
        snapshot.left[PRODUCT],
        sum(snapshot.bought.values()),
    )


@either_ledger
async def test_s12_hundred_users_buy_one_each_of_hundred(shop: Shop) -> None:
    """S12: 100 users buy 1 each of 100: sold is 100, oversold 0, and nobody is turned away."""
    assert await buy_all(shop, 100) == {"sold": 100}
    assert await books(shop) == (0, 0, 100)


@either_ledger
async def test_s12_three_hundred_users_want_hundred(shop: Shop) -> None:
    """With 300 users for 100 units, 100 are sold and exactly 200 are told that it is sold out."""
    assert await buy_all(shop, 300) == {"sold": 100, "SoldOut": 200}
    assert await books(shop) == (0, 0, 100)


async def test_s12_control_without_lock_and_gate_the_same_crowd_oversells(shop: Shop) -> None:
    """Control: a hundred buyers who read the stock before any writes it sell one unit each."""
    key, barrier = "naive:stock", asyncio.Barrier(100)
    await shop.node.command("SET", key, 1)

    async def buy_unprotected() -> bool:
        left = int(await shop.node.command("GET", key))
        await barrier.wait()
        if left < 1:
            return False
        await shop.node.command("SET", key, left - 1)
        return True

    sold = sum(await asyncio.gather(*(buy_unprotected() for _ in range(100))))

    assert sold == 100
    assert await shop.node.command("GET", key) == "0"


HOLD_AND_DIE = """
import asyncio, os, signal, sys
from labshop.locks import Node, SingleLock

async def main():
    node = Node(sys.argv[1], timeout_ms=2_000)
    async with SingleLock(node, "product:1", ttl_ms=1_000).hold(wait_ms=0):
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_s13_a_lock_held_past_its_time_frees_itself(shop: Shop) -> None:
    """S13: a process that is killed while it holds the lock blocks it for one time to live."""
    url = f"redis://{shop.node.name}"
    holder = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLD_AND_DIE, url)
    assert await holder.wait() == -signal.SIGKILL
    assert await shop.node.command("PTTL", f"lock:{{product:{PRODUCT}}}") > 0

    assert await buy_all(shop, 5) == {"sold": 5}

    assert await shop.node.command("EXISTS", f"lock:{{product:{PRODUCT}}}") == 0


async def test_s13_control_a_lock_without_an_end_blocks_for_ever(shop: Shop) -> None:
    """Control: SETNX without a time to live, and a crash, and nobody can buy any more."""
    await shop.node.command("SETNX", f"lock:{{product:{PRODUCT}}}", "a dead process")
    impatient = replace(shop.toolbox(), lock_wait_ms=500)
    [user_id] = await users(shop, 1)

    with pytest.raises(Exception, match="was not free within"):
        await Purchase(impatient).buy(Order.place(user_id, [Line(PRODUCT, 1)]))

    assert await shop.node.command("PTTL", f"lock:{{product:{PRODUCT}}}") == -1


class FailingLedger:
    """The real ledger, whose disk fails at the moment of saving."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    async def record(self, order: Order, *, fence: int) -> Receipt:
        raise Unavailable("ledger", f"the disk is full at fence {fence} of {order.id}")


@either_ledger
async def test_s14_a_ledger_that_fails_to_save_gives_the_stock_back(shop: Shop) -> None:
    """S14: when SQL fails to save, Redis gets its units back, and both agree."""
    tools = replace(shop.toolbox(), ledger=FailingLedger(shop), lock_wait_ms=1_000)
    [user_id] = await users(shop, 1)

    with pytest.raises(Unavailable):
        await Purchase(tools).buy(Order.place(user_id, [Line(PRODUCT, 3)]))

    assert await books(shop) == (100, 100, 0)


@either_ledger
async def test_s14_a_locked_database_gives_the_stock_back(shop: Shop) -> None:
    """S14 with a real outage: another program holds the database; the buyer is refused."""
    [user_id] = await users(shop, 1)
    impatient = Database(shop.settings.ledger_url(), timeout_ms=50)
    shop.writer._database = impatient

    with other_program(shop.settings.ledger_url()) as program:
        program.begin_writing()
        with pytest.raises(Unavailable):
            await Purchase(shop.toolbox()).buy(Order.place(user_id, [Line(PRODUCT, 3)]))
        assert await shop.inventory.left(PRODUCT) == 100

    assert await books(shop) == (100, 100, 0)
    impatient.close()


@either_ledger
async def test_s14_control_without_compensation_the_units_are_lost(shop: Shop) -> None:
    """Control: the same failure, and nobody undoes: three units are held by nobody's order."""
    [user_id] = await users(shop, 1)
    order = Order.place(user_id, [Line(PRODUCT, 3)])

    await shop.inventory.reserve(order)
    with pytest.raises(Unavailable):
        await FailingLedger(shop).record(order, fence=1)

    assert await books(shop) == (97, 100, 0)


async def rollback_race(shop: Shop, *, by_increment: bool) -> int:
    """One buyer takes a unit and fails to pay while 99 others buy; returns the units then left."""
    key, seen, others_bought = "rollback:stock", asyncio.Event(), asyncio.Event()
    await shop.node.command("SET", key, 100)

    async def buy_and_fail() -> None:
        before = int(await shop.node.command("GET", key))
        await shop.node.command("DECRBY", key, 1)
        seen.set()
        await others_bought.wait()
        if by_increment:
            await shop.node.command("INCRBY", key, 1)
        else:
            await shop.node.command("SET", key, before)

    async def others() -> None:
        await seen.wait()
        for _ in range(99):
            await shop.node.command("DECRBY", key, 1)
        others_bought.set()

    await asyncio.gather(buy_and_fail(), others())
    return int(await shop.node.command("GET", key))


async def test_s8_rollback_by_increment_keeps_what_others_bought(shop: Shop) -> None:
    """S8: the failed unit goes back by INCRBY; of 100 units, 99 are sold and 1 is left."""
    assert await rollback_race(shop, by_increment=True) == 1


async def test_s8_control_rollback_by_set_sells_the_stock_again(shop: Shop) -> None:
    """Control: the rollback SETs the value it had read; 99 sold units are on sale once more."""
    left = await rollback_race(shop, by_increment=False)

    assert left == 100
    assert left + 99 == 199  # so many will have been sold of 100 in the end


async def test_saga_gives_back_in_the_real_gate_once(shop: Shop) -> None:
    """S9: compensating twice gives the units back once."""
    [user_id] = await users(shop, 1)
    order = Order.place(user_id, [Line(PRODUCT, 2)])
    await shop.inventory.reserve(order)

    await asyncio.gather(*(shop.inventory.release(order.id) for _ in range(10)))

    assert await books(shop) == (100, 100, 0)


@either_ledger
async def test_a_buyer_that_was_cancelled_in_mid_purchase_is_settled_by_look_up(
    shop: Shop,
) -> None:
    """A cancelled purchase leaves its reservation, until the ledger has said what became of it."""
    [user_id] = await users(shop, 1)
    order = Order.place(user_id, [Line(PRODUCT, 1)])
    shop.reconciler._reservation_ttl_ms = 1
    reserved = asyncio.Event()

    class Stuck:
        async def record(self, order: Order, *, fence: int) -> Receipt:
            reserved.set()
            await asyncio.Event().wait()
            raise AssertionError(order, fence)

    tools = replace(shop.toolbox(), ledger=Stuck(), lock_wait_ms=1_000)
    task = asyncio.create_task(Purchase(tools).buy(order))
    await reserved.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def given_back() -> bool:
        return await books(shop) == (100, 100, 0)

    await eventually(given_back)
    assert await shop.node.command("EXISTS", f"lock:{{product:{PRODUCT}}}") == 0


async def test_sold_out_names_what_is_left(shop: Shop) -> None:
    """A refusal carries data: the product, and the units that are left."""
    [user_id] = await users(shop, 1)
    await buy_all_but(shop, 99)

    with pytest.raises(SoldOut) as refusal:
        await Purchase(shop.toolbox()).buy(Order.place(user_id, [Line(PRODUCT, 2)]))

    assert (refusal.value.product_id, refusal.value.left) == (PRODUCT, 1)


async def buy_all_but(shop: Shop, count: int) -> list[UUID]:
    """Sell so many units to as many users, who are new."""
    accounts = [await shop.accounts.create(f"early-{n}", "!") for n in range(count)]
    return [
        (await Purchase(shop.toolbox()).buy(Order.place(a.id, [Line(PRODUCT, 1)]))).order_id
        for a in accounts
    ]
