"""A product on three shards: exact as on one, whatever moves between them and whatever is lost."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from itertools import count

import pytest

from labshop.api.shop import Shop, build_shop
from labshop.errors import SetupError
from labshop.locks.wire import Part, Reply
from labshop.ops.reconcile import Reconciler
from labshop.settings import Settings
from labshop.shop.domain import Line, Order, Receipt
from labshop.shop.errors import LimitReached, Refused, SoldOut, StockHeld, Unavailable
from labshop.stack.faults.network import Network
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from labshop.storage.records import Snapshot
from labshop.storage.shard_gates import Shard
from labshop.storage.shards import Look, ShardedInventory
from tests.conftest import eventually, open_shop

NAMES = ("s0", "s1", "s2")
PRODUCT = 1
SEEDS = 6
BUYERS = 30
_fences = count(1)


@pytest.fixture(scope="module")
def servers(
    leash: Leash, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerNode, ...]]:
    """A server for each of three shards."""
    folder = tmp_path_factory.mktemp("shards")
    servers = tuple(
        ServerNode(NodeSpec(name, "primary"), find_server(None), folder / name, leash)
        for name in NAMES
    )
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.kill()


@pytest.fixture(scope="module")
def network(servers: tuple[ServerNode, ...]) -> Iterator[Network]:
    """What is between the shop and them."""
    ports = {name: server.port for name, server in zip(NAMES, servers, strict=True)}
    with Network(ports) as network:
        yield network


@pytest.fixture
async def shop(valkey: ServerNode, settings: Settings, network: Network) -> AsyncIterator[Shop]:
    """A shop on three shards; it repairs nothing before it is told to `settle`."""
    urls = ",".join(f"redis://127.0.0.1:{network.port(name)}" for name in NAMES)
    sharded = settings.model_copy(update={"gate_shard_urls": urls})
    async with open_shop(valkey, sharded) as shop:

        async def idle() -> None:
            return

        shop.reconciler.look = idle  # type: ignore[method-assign]
        for gate in gates(shop):
            await gate.node.command("FLUSHALL")
        await shop.inventory.gate.rebuild()
        yield shop


def inventory(shop: Shop) -> ShardedInventory:
    assert isinstance(shop.inventory, ShardedInventory)
    return shop.inventory


def gates(shop: Shop) -> tuple[Shard, ...]:
    return inventory(shop)._gates


def other_process(shop: Shop) -> ShardedInventory:
    """The same shards, as another process has them."""
    nodes = [gate.node for gate in gates(shop)]
    return ShardedInventory(nodes, shop.ledger.snapshot, clock=shop.clock)


async def stock(shop: Shop, units: int, product_id: int = PRODUCT) -> None:
    """Put so many units on sale."""
    await shop.ledger.adjust(product_id, units=units, actor="test")
    await shop.inventory.gate.rebuild()


async def on_shards(shop: Shop, name: str = "left", product_id: int = PRODUCT) -> list[int]:
    """A count of each shard, raw from Redis."""
    field = f"{name}:{product_id}"
    counts = [await gate.node.command("HGET", gate.key, field) for gate in gates(shop)]
    return [int(units or 0) for units in counts]


async def buyers_at(shop: Shop, home: int, number: int) -> list[int]:
    """New users whose home is one shard."""
    return [it for it in await users_of(shop, 3 * number) if it % 3 == home][:number]


async def users_of(shop: Shop, number: int) -> list[int]:
    first = next(_fences)
    accounts = (shop.accounts.create(f"user-{first}-{n}", "!") for n in range(number))
    return [account.id for account in await asyncio.gather(*accounts)]


def order_of(user_id: int, quantity: int = 1) -> Order:
    return Order.place(user_id, [Line(PRODUCT, quantity)])


async def buy(shop: Shop, order: Order) -> Receipt:
    """Buy as stage v4 does, and let the gate hear of it."""
    await shop.inventory.reserve(order)
    receipt = await shop.ledger.record(order, fence=0)
    await shop.inventory.confirm(receipt)
    return receipt


async def insist(shop: Shop, user_id: int) -> bool:
    """Come again as long as one is told to; whether a unit was bought."""
    while True:
        try:
            await shop.strategies["v4"].buy(order_of(user_id))
        except StockHeld:
            await asyncio.sleep(0)
        except SoldOut:
            return False
        else:
            return True


def is_suspect(shop: Shop) -> bool:
    return shop.inventory.gate.suspect


async def settle(shop: Shop) -> None:
    """One look of a reconciler to which every reservation and every loan is an old one."""
    await Reconciler(shop.inventory, shop.ledger, reservation_ttl_ms=0).look()


async def test_as_many_are_sold_as_there_are(shop: Shop) -> None:
    """Of three hundred buyers a hundred get the hundred units, and each of the others is told."""
    await stock(shop, 100)
    assert await on_shards(shop) == [34, 33, 33]

    bought = await asyncio.gather(*(insist(shop, it) for it in await users_of(shop, 300)))

    await settle(shop)
    assert bought.count(True) == 100
    assert await on_shards(shop) == await on_shards(shop, "held") == [0, 0, 0]
    assert await on_shards(shop, "lent") == [0, 0, 0]
    assert (await shop.ledger.snapshot()).left[PRODUCT] == 0
    assert not shop.ledger.contradicted


@pytest.mark.parametrize("home", [1, 2])
async def test_the_last_unit_is_sold_whichever_shard_holds_it(shop: Shop, home: int) -> None:
    """The only unit is on the first shard, the buyer at home on another: it is sold."""
    await stock(shop, 1)
    ada, bob = await buyers_at(shop, home, 2)
    assert await on_shards(shop) == [1, 0, 0]

    await buy(shop, order_of(ada))

    assert await on_shards(shop) == [0, 0, 0]
    with pytest.raises(SoldOut):
        await buy(shop, order_of(bob))


async def test_an_order_takes_one_unit_from_each_shard(shop: Shop) -> None:
    """Three units are wanted, and each shard holds one."""
    await stock(shop, 3)
    ada, bob = await buyers_at(shop, 1, 2)

    with pytest.raises(SoldOut):
        await buy(shop, order_of(bob, 4))
    await buy(shop, order_of(ada, 3))

    assert await on_shards(shop) == [0, 0, 0]
    assert (await shop.ledger.snapshot()).left[PRODUCT] == 0


async def test_rivals_for_all_units_do_not_starve_each_other(shop: Shop) -> None:
    """Buyers at three homes want all that is left: one gets it."""
    await stock(shop, 9)
    rivals = [order_of((await buyers_at(shop, home, 1))[0], 9) for home in (0, 1, 2) * 3]

    ends = await asyncio.gather(*(buy(shop, it) for it in rivals), return_exceptions=True)

    assert sum(isinstance(end, Receipt) for end in ends) == 1
    assert all(isinstance(end, (Receipt, SoldOut, StockHeld)) for end in ends)


async def test_control_without_borrowing_units_stay_unsold(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: when the home alone is asked, the others' units find no buyer."""

    async def refuse(_self: object, _home: object, product_id: int, _wanted: int) -> None:
        raise SoldOut(product_id, 0)

    monkeypatch.setattr(ShardedInventory, "_gather", refuse)
    await stock(shop, 12)

    bought = await asyncio.gather(*(insist(shop, it) for it in await buyers_at(shop, 0, 20)))

    assert bought.count(True) == 4
    assert await on_shards(shop) == [0, 4, 4]


async def test_the_limit_of_a_user_holds_for_borrowed_units_too(shop: Shop) -> None:
    """A user of whose home four units are asks for twelve at once, by one: ten are reserved."""
    await stock(shop, 12)
    [ada] = await buyers_at(shop, 2, 1)

    orders = (order_of(ada) for _ in range(12))
    ends = await asyncio.gather(
        *(shop.inventory.reserve(it) for it in orders), return_exceptions=True
    )

    assert ends.count(None) == 10
    assert sum(isinstance(end, LimitReached) for end in ends) == 2
    await shop.inventory.gate.rebuild()
    for _ in range(10):
        await buy(shop, order_of(ada))
    await shop.inventory.gate.rebuild()
    with pytest.raises(LimitReached):
        await shop.inventory.reserve(order_of(ada))


async def test_units_come_back_to_where_they_were_taken(shop: Shop) -> None:
    """A release and a cancellation give the borrowed units back once, at the buyer's home."""
    await stock(shop, 3)
    [ada] = await buyers_at(shop, 1, 1)
    given_up = order_of(ada, 3)
    await shop.inventory.reserve(given_up)

    await asyncio.gather(*(shop.inventory.release(given_up.id) for _ in range(3)))
    assert await on_shards(shop) == [0, 3, 0]

    receipt = await buy(shop, order_of(ada, 3))
    cancelled, sequence = await shop.ledger.cancel(receipt.order_id, user_id=ada, actor="test")
    await asyncio.gather(*(shop.inventory.put_back(cancelled, sequence) for _ in range(3)))
    assert await on_shards(shop) == [0, 3, 0]
    assert await shop.inventory.left(PRODUCT) == await shop.inventory.unsold(PRODUCT) == 3


async def test_units_that_got_stuck_on_their_way_are_brought_there_once(
    shop: Shop, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home cannot be reached between lending and receiving: nobody is told "sold out", and
    two processes that find the note bring the unit there once.
    """
    await stock(shop, 1)
    ada, bob = await buyers_at(shop, 1, 2)
    home = gates(shop)[1]
    run = home.run

    async def breaks(script: str, keys: Sequence[str], args: Sequence[Part]) -> Reply:
        if script != "receive_loan":
            return await run(script, keys, args)
        with network.refused(server="s1"):
            return await run(script, keys, args)

    monkeypatch.setattr(home, "run", breaks)
    with pytest.raises(Unavailable):
        await buy(shop, order_of(ada))
    monkeypatch.undo()

    assert await on_shards(shop) == [0, 0, 0]
    assert await on_shards(shop, "lent") == [1, 0, 0]
    with pytest.raises(StockHeld):
        await buy(shop, order_of(bob))

    lender, finders = gates(shop)[0], (inventory(shop), other_process(shop))
    found = [(it, note) for it in finders for note in await it._notes(lender, 0)]
    await asyncio.gather(*(it._finish(lender, note) for it, note in found))
    assert len(found) == 2
    assert await on_shards(shop) == [0, 1, 0]
    assert await on_shards(shop, "lent") == [0, 0, 0]
    await buy(shop, order_of(bob))


async def test_a_loan_does_not_outlive_its_gates(shop: Shop) -> None:
    """Lent before all shards were built anew: it is in their stock, and never arrives besides."""
    await stock(shop, 1)
    lender, home, _ = gates(shop)
    epoch = await lender.ask("HGET", lender.key, "epoch")
    keys = (lender.key, lender.lent, f"{lender.tag}:loan:late")
    note = await lender.run("lend_units", keys, ("late", epoch, home.number, PRODUCT, 1, 60_000))
    await shop.inventory.gate.rebuild()

    assert await inventory(shop)._notes(lender, 0) == []
    assert await inventory(shop)._finish(lender, note) == 0
    assert await inventory(shop)._borrow(lender, home, epoch, PRODUCT, 1) == 0

    assert await on_shards(shop) == [1, 0, 0]
    assert await on_shards(shop, "lent") == [0, 0, 0]


async def test_a_loan_whose_reply_was_lost_is_finished(shop: Shop, network: Network) -> None:
    """The lender's reply does not arrive: the buyer is refused, and the unit found by its note."""
    await stock(shop, 1)
    [ada] = await buyers_at(shop, 2, 1)
    lender = gates(shop)[0]
    run = lender.run

    async def goes_unheard(script: str, keys: Sequence[str], args: Sequence[Part]) -> Reply:
        with network.replies_dropped(server="s0"):
            lost = asyncio.ensure_future(run(script, keys, args))
            while not network.traffic("s0").dropped_replies:
                await asyncio.sleep(0)
        return await lost

    lender.run = goes_unheard  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await buy(shop, order_of(ada))
    lender.run = run  # type: ignore[method-assign]
    assert await on_shards(shop) == [0, 0, 0]

    await settle(shop)

    assert await on_shards(shop) == [0, 0, 1]
    await buy(shop, order_of(ada))


async def test_control_an_arrival_that_is_not_remembered_makes_units(shop: Shop) -> None:
    """Control: a home that forgot what had come takes it once more."""
    await stock(shop, 1)
    lender, home, _ = gates(shop)
    epoch = await lender.ask("HGET", lender.key, "epoch")
    note = " ".join(("loan", epoch, "1", str(PRODUCT), "1"))

    await inventory(shop)._finish(lender, note)
    await inventory(shop)._finish(lender, note)
    assert await on_shards(shop) == [1, 1, 0]
    await home.ask("DEL", f"{home.tag}:loan:loan")
    await inventory(shop)._finish(lender, note)

    assert await on_shards(shop) == [1, 2, 0]


async def look_while_the_unit_wanders(shop: Shop) -> None:
    """A buyer asks for the only unit, which each look sees just where it is not.

    First it is on the second shard; the first is looked at, then it moves to the first, and the
    others are looked at. At the next look it moves on, from the first to the third.
    """
    a, b, c = gates(shop)
    await stock(shop, 1)
    epoch = await a.ask("HGET", a.key, "epoch")
    await inventory(shop)._borrow(a, b, epoch, PRODUCT, 1)
    asked = iter((a, b, c, c, a, b))
    moves = {1: (b, a), 4: (a, c)}
    answers, turn = count(1), asyncio.Condition()
    next_asked = next(asked)

    def in_turn(gate: Shard) -> Callable[..., Coroutine[None, None, Reply]]:
        ask = gate.ask

        async def ask_in_turn(*parts: Part) -> Reply:
            nonlocal next_asked
            if parts[0] != "HMGET":
                return await ask(*parts)
            async with turn:
                await turn.wait_for(lambda: next_asked is gate)
                reply = await ask(*parts)
                move = moves.get(next(answers))
                if move is not None:
                    await inventory(shop)._borrow(*move, epoch, PRODUCT, 1)
                next_asked = next(asked, a)
                turn.notify_all()
                return reply

        return ask_in_turn

    for gate in (a, b, c):
        gate.ask = in_turn(gate)  # type: ignore[method-assign]
    await inventory(shop)._look_for(PRODUCT, 1)


async def test_a_unit_that_wanders_between_two_looks_is_not_sold_out(shop: Shop) -> None:
    """Two looks that both missed the unit tell by its arrivals that it moved: nobody is refused."""
    await look_while_the_unit_wanders(shop)


async def test_control_without_arrivals_a_wandering_unit_is_missed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: two looks alone say "sold out" of a unit that was there all the time."""
    monkeypatch.setattr(Look, "arrivals", [])

    with pytest.raises(SoldOut):
        await look_while_the_unit_wanders(shop)


async def test_a_shard_that_is_emptied_in_mid_sale_has_all_built_anew(shop: Shop) -> None:
    """FLUSHALL on one of three, while three hundred buy: a hundred are sold, and all agree."""
    await stock(shop, 100)
    record, booked = shop.ledger.record, count(1)
    epoch = await gates(shop)[0].ask("HGET", gates(shop)[0].key, "epoch")

    async def record_and_wipe(order: Order, *, fence: int) -> Receipt:
        receipt = await record(order, fence=fence)
        if next(booked) == 40:
            await gates(shop)[1].node.command("FLUSHALL")
        return receipt

    shop.ledger.record = record_and_wipe  # type: ignore[method-assign]
    bought = await asyncio.gather(*(insist(shop, it) for it in await users_of(shop, 300)))
    await settle(shop)

    assert bought.count(True) == 100
    assert await difference(shop) == {}
    epochs = {await gate.ask("HGET", gate.key, "epoch") for gate in gates(shop)}
    assert len(epochs) == 1
    assert epochs != {epoch}


async def answers(gate: Shard) -> bool:
    try:
        await gate.ask("PING")
    except Unavailable:
        return False
    return True


async def test_a_server_that_was_started_anew_is_not_believed(
    shop: Shop, servers: tuple[ServerNode, ...]
) -> None:
    """A shard's server comes back with what it had on disk: all shards are built anew."""
    [ada] = await buyers_at(shop, 1, 1)
    await buy(shop, order_of(ada, 2))
    servers[1].kill()
    servers[1].restart()
    gate = gates(shop)[1]
    await eventually(lambda: answers(gate))
    await gate.ask("HSET", gate.key, f"left:{PRODUCT}", 99)

    await buy(shop, order_of(ada, 3))

    assert await difference(shop) == {}
    assert await shop.inventory.left(PRODUCT) == 95


async def test_while_a_shard_is_away_nobody_is_told_that_all_is_sold(
    shop: Shop, network: Network
) -> None:
    """The others sell what they have, and are not dropped; then buyers are told of the outage."""
    await stock(shop, 3)
    buyers = await buyers_at(shop, 0, 3)
    with network.refused(server="s2"):
        with pytest.raises(Unavailable):
            await shop.inventory.gate.rebuild()
        await buy(shop, order_of(buyers[0]))
        await buy(shop, order_of(buyers[1]))
        with pytest.raises(Unavailable):
            await buy(shop, order_of(buyers[2]))

    await buy(shop, order_of(buyers[2]))

    assert is_suspect(shop)
    await settle(shop)
    assert not is_suspect(shop)
    assert await on_shards(shop) == [0, 0, 0]


async def test_two_processes_build_one_set(shop: Shop) -> None:
    """Both find all shards empty at once: all get their parts of one snapshot."""
    await stock(shop, 10)
    for gate in gates(shop):
        await gate.node.command("FLUSHALL")

    await asyncio.gather(*(it.gate.heat() for it in (inventory(shop), other_process(shop)) * 3))

    assert len({await gate.ask("HGET", gate.key, "epoch") for gate in gates(shop)}) == 1
    assert await on_shards(shop) == [4, 3, 3]


async def test_a_builder_that_was_overtaken_builds_nothing(shop: Shop) -> None:
    """Its snapshot is from before the reason for which another process builds anew."""
    [ada] = await buyers_at(shop, 0, 1)
    slow = other_process(shop)
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def slow_snapshot() -> Snapshot:
        seen = await shop.ledger.snapshot()
        slow._gates[0].snapshot = shop.ledger.snapshot
        reading.set()
        await go_on.wait()
        return seen

    slow._gates[0].snapshot = slow_snapshot
    building = asyncio.create_task(slow.gate.rebuild())
    await reading.wait()
    await shop.ledger.record(order_of(ada, 10), fence=0)
    await shop.inventory.gate.rebuild()
    go_on.set()
    await building

    assert await on_shards(shop) == [30, 30, 30]


async def test_a_token_is_refused_at_every_home(shop: Shop) -> None:
    """Whoever signed out, its token is known on all shards, and after a rebuilding."""
    ends_at = (await shop.ledger.snapshot()).sale.closes_at
    await shop.inventory.sign_out("a-token", ends_at)

    for gate in gates(shop):
        assert await gate.ask("ZSCORE", gate.revoked, "a-token") is not None


def test_shards_that_are_not_usable_are_named(settings: Settings) -> None:
    """A wrong port among them is said with the setting's name; a list of Sentinels is one URL."""
    urls = "redis+sentinel://a:1,b:2/one, redis://c:3"
    named = settings.model_copy(update={"gate_shard_urls": urls})
    assert named.shard_urls() == ("redis+sentinel://a:1,b:2/one", "redis://c:3")

    wrong = settings.model_copy(update={"gate_shard_urls": "redis://127.0.0.1:port"})
    with pytest.raises(SetupError, match="LABSHOP_GATE_SHARD_URLS"):
        build_shop(wrong, gate_url="redis://127.0.0.1")


class Crashed(Exception):
    """The process of this buyer is gone, between two steps."""


class Fate:
    """What befalls a sale: seeded, so that a seed that fails can be tried again.

    Args:
        crashes: a process may die at each step.
        wipes: a shard loses its memory now and then, just after an order was booked.
    """

    def __init__(self, shop: Shop, seed: int, *, crashes: bool, wipes: bool) -> None:
        self.chance = random.Random(seed)
        self._shop = shop
        self._crashes = crashes
        self._wipes = wipes

    async def step(self) -> None:
        """Let others go first, for a while; perhaps the process ends here."""
        for _ in range(self.chance.randrange(6)):
            await asyncio.sleep(0)
        if self._crashes and self.chance.random() < 0.08:
            raise Crashed

    async def booked(self) -> None:
        """Perhaps empty a shard."""
        if self._wipes and self.chance.random() < 0.15:
            await self.chance.choice(gates(self._shop)).node.command("FLUSHALL")


class MortalInventory(ShardedInventory):
    """The shards, as a process has them that may die between lending and receiving."""

    fate: Fate

    async def _finish(self, lender: Shard, note: str) -> int:
        await self.fate.step()
        return await super()._finish(lender, note)


async def run_sale(shop: Shop, fate: Fate) -> None:
    """Thirty buyers of two processes at once, of products of which there is not enough."""
    nodes = [gate.node for gate in gates(shop)]
    processes = [MortalInventory(nodes, shop.ledger.snapshot, clock=shop.clock) for _ in range(2)]
    for process in processes:
        process.fate = fate
    buyers = await users_of(shop, BUYERS)
    await asyncio.gather(*(survived(sale_to(it, shop, processes, fate)) for it in buyers))
    shop.inventory.gate.suspect = any(process.gate.suspect for process in processes)


async def sale_to(
    user_id: int, shop: Shop, processes: Sequence[ShardedInventory], fate: Fate
) -> None:
    process, chance = fate.chance.choice(processes), fate.chance
    order = Order.place(user_id, [Line(chance.randint(1, 3), chance.randint(1, 3))])
    await fate.step()
    await process.reserve(order)
    await fate.step()
    try:
        receipt = await shop.ledger.record(order, fence=0)
    except Refused:
        await process.release(order.id)
        return
    await fate.booked()
    await fate.step()
    await process.confirm(receipt)
    await fate.step()
    if chance.random() < 0.3:
        cancelled, sequence = await shop.ledger.cancel(order.id, user_id=user_id, actor="buyer")
        await process.put_back(cancelled, sequence)


async def survived(buyer: Awaitable[None]) -> None:
    try:
        await buyer
    except (Crashed, Refused):
        return


async def difference(shop: Shop) -> dict[int, int]:
    """What the shards have unsold more than the ledger, per product, once all loans are closed."""
    await shop.inventory.gate.heat()
    ledger = (await shop.ledger.snapshot()).left
    unsold = {product: await shop.inventory.unsold(product) for product in ledger}
    return {
        product: unsold[product] - ledger[product]
        for product in ledger
        if unsold[product] != ledger[product]
    }


@pytest.mark.parametrize(("crashes", "wipes"), [(False, False), (True, False), (False, True)])
async def test_shards_and_ledger_end_as_one(shop: Shop, *, crashes: bool, wipes: bool) -> None:
    """No unit is lost or made, whoever dies in between, also of two that lend to each other."""
    borrowed = 0
    for seed in range(SEEDS):
        for product_id in (1, 2, 3):
            await stock(shop, 12, product_id)
        await run_sale(shop, Fate(shop, seed, crashes=crashes, wipes=wipes))
        borrowed += sum(await on_shards(shop, "arrived"))
        assert not shop.inventory.gate.suspect
        shop.ledger.contradicted = False  # no building anew: they must agree without it
        await settle(shop)

        assert await difference(shop) == {}, f"seed {seed}"
        assert await on_shards(shop, "lent") == [0, 0, 0], f"seed {seed}"
    assert borrowed or wipes, "nothing was borrowed: nothing was tried"
