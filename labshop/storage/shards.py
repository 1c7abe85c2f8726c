"""The stock of a hot product on several servers, so that not one thread serves its whole crowd.

The problem: Redis runs one script at a time. A product that everybody wants is one key, so one
core, however many servers there are; several keys on one server are served by that one core as
well. The idea: each of several servers, a *shard*, is a gate of its own with its part of the stock
(see `labshop.storage.inventory`). A buyer always comes to the same shard, the *home*, where units
per user are counted and orders are noted: what a limit allows, and what happens once, stays exact.

When the home has too little, it *borrows*: another shard lends units and notes the loan, the home
puts them on sale, once per loan, and the note is closed. So the last unit is sold whichever shard
holds it. A loan is finished and never undone: whoever finds an old note, whose process has died
in between, does the rest of it.

"Sold out" is said when two looks at all shards find too little left, held and lent, and no unit
arrived between the looks: then there was a moment at which all of them had too little. Where units
are held by others, or do not arrive, the buyer is told to come again.

It does not promise speed for the last units, each of which may cost some messages more. While a
server is away, its buyers cannot buy and its units are not sold; but nobody is told "sold out". All
processes must be given the same servers in the same order.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from labshop.clock import Clock
from labshop.locks import Node
from labshop.lua import load_script
from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import NoSuchProduct, SoldOut, StockHeld, Unavailable
from labshop.storage.gate import HEAT_TRIES, Gate
from labshop.storage.inventory import REMEMBER_MS, SWEEP_SIZE, RedisInventory
from labshop.storage.records import Snapshot
from labshop.storage.shard_gates import Shard, ShardSet, home_of
from labshop.storage.sold_out import SoldOutFlags

BORROW_TRIES = 20
"""How often others may take what was borrowed for a buyer, before the buyer is sent away."""


@dataclass(frozen=True)
class Stock:
    """What a shard has of a product: units left, held, and lent without having arrived.

    `arrived` counts loans that have come here in this epoch.
    """

    epoch: str
    left: int
    held: int
    lent: int
    arrived: int


COLD = Stock("", 0, 0, 0, 0)
"""Of a shard whose gate is not built."""


@dataclass(frozen=True)
class Look:
    """What was seen of a product on all shards, one after the other.

    `stocks` has None for a shard that could not be reached, and `outage` says why.
    """

    stocks: tuple[Stock | None, ...]
    outage: Unavailable | None

    @property
    def left(self) -> int:
        """Units that can be reserved, wherever they are."""
        return sum(stock.left for stock in self.stocks if stock)

    @property
    def lent(self) -> int:
        """Units on their way."""
        return sum(stock.lent for stock in self.stocks if stock)

    @property
    def unsold(self) -> int:
        """Units left, held and lent; one that is just arriving may be counted twice."""
        return sum(stock.left + stock.held + stock.lent for stock in self.stocks if stock)

    @property
    def arrivals(self) -> list[tuple[str, int]]:
        """What differs from look to look when units have arrived somewhere in between."""
        return [(stock.epoch, stock.arrived) for stock in self.stocks if stock]

    def is_of_one_epoch(self) -> bool:
        """Whether all shards that were reached were built from one snapshot."""
        epochs = {stock.epoch for stock in self.stocks if stock}
        return len(epochs) <= 1 and "" not in epochs


class ShardedInventory:
    """The gate of one sale on several nodes. What its methods do, `RedisInventory` says.

    Args:
        nodes: the server of each shard; the same ones in the same order in every process.
        snapshot: reads the ledger; the source when the gates are built.
        sale_id: which sale.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        snapshot: Callable[[], Awaitable[Snapshot]],
        *,
        clock: Clock,
        sale_id: int = 1,
    ) -> None:
        self._gates = ShardSet(nodes, snapshot, clock=clock, sale_id=sale_id).shards
        self.gate: Gate = self._gates[0]
        """Stands for all: what is wrong with one is wrong with all, and they are built together."""
        self._shards = tuple(
            RedisInventory(gate.node, snapshot, clock=clock, sale_id=sale_id, gate=gate)
            for gate in self._gates
        )
        self.sold_out = SoldOutFlags(clock)
        """Of all shards together; each has flags of its own besides, which say: borrow."""
        for gate in self._gates:
            self.sold_out.hear(gate)
        self._clock = clock
        self._borrowing = asyncio.Lock()

    async def reserve(self, order: Order) -> None:
        """Set the order's units aside at the buyer's home, if need be after borrowing.

        Raises:
            See `labshop.stages.base.Inventory`.
        """
        self.sold_out.refuse(order.lines)
        number = home_of(order.user_id, len(self._shards))
        for _ in range(BORROW_TRIES):
            try:
                return await self._shards[number].reserve(order)
            except (SoldOut, StockHeld) as shortage:
                product_id = shortage.product_id
            wanted = sum(it.quantity for it in order.lines if it.product_id == product_id)
            await self._gather(self._gates[number], product_id, wanted)
        raise StockHeld(product_id)

    async def release(self, order_id: UUID) -> None:
        """Give back what the order had reserved; whose it was is not known, so all are told."""
        await asyncio.gather(*(shard.release(order_id) for shard in self._shards))

    async def confirm(self, receipt: Receipt) -> None:
        """Turn the reservation into a sale."""
        await self._home(receipt).confirm(receipt)

    def confirm_soon(self, receipt: Receipt) -> None:
        """The same, and not waited for."""
        self._home(receipt).confirm_soon(receipt)

    async def put_back(self, receipt: Receipt, sequence: int) -> None:
        """Put a cancelled order's units back on sale, at the buyer's home."""
        await self._home(receipt).put_back(receipt, sequence)

    async def sign_out(self, token_id: str, ends_at: datetime) -> None:
        """Refuse a token from here on; whose it is is not known, so all are told."""
        await asyncio.gather(*(shard.sign_out(token_id, ends_at) for shard in self._shards))

    async def left(self, product_id: int) -> int:
        """Units that can be reserved at this moment, on all shards."""
        return max((await self._look_at_all(product_id)).left, 0)

    async def unsold(self, product_id: int) -> int:
        """Units left, held and lent, on all shards."""
        return (await self._look_at_all(product_id)).unsold

    async def abandoned(self, *, older_than_ms: int) -> list[UUID]:
        """Orders that were reserved that long ago; loans that are as old are finished first."""
        for gate in self._gates:
            for note in await self._notes(gate, older_than_ms):
                await self._finish(gate, note)
        ids: list[UUID] = []
        for shard in self._shards:
            ids += await shard.abandoned(older_than_ms=older_than_ms)
        return ids

    def _home(self, receipt: Receipt) -> RedisInventory:
        return self._shards[home_of(receipt.user_id, len(self._shards))]

    async def _gather(self, home: Shard, product_id: int, wanted: int) -> None:
        """Borrow what the home lacks, from whoever has most first."""
        look = await self._look_for(product_id, wanted)
        # One borrower of this process at a time: two that want several units each could otherwise
        # take each other's for ever.
        if self._borrowing.locked():
            async with self._borrowing:
                # What was borrowed meanwhile is perhaps enough for this one, too.
                return
        async with self._borrowing:
            seen = [(it, gate) for it, gate in zip(look.stocks, self._gates, strict=True) if it]
            missing = wanted - sum(stock.left for stock, gate in seen if gate is home)
            lenders = [(stock, gate) for stock, gate in seen if gate is not home and stock.left > 0]
            for stock, gate in sorted(lenders, key=lambda it: -it[0].left):
                if missing <= 0:
                    return
                missing -= await self._borrow(gate, home, stock.epoch, product_id, missing)

    async def _look_for(self, product_id: int, wanted: int) -> Look:
        """Look at the shards that can be reached, and refuse if they surely have too little."""
        asked_ms = self._clock.now_ms()
        look = await self._look(product_id)
        # What is on its way can be had a moment later, unless its process has died.
        if look.left + look.lent >= wanted:
            return look
        if look.outage is not None:
            raise look.outage
        again = await self._look_at_all(product_id)
        if again.arrivals != look.arrivals:
            return again
        if again.unsold >= wanted:
            raise StockHeld(product_id)
        left = max(again.left, 0)
        self.sold_out.note(("sold_out", str(product_id), str(left), str(again.unsold)), asked_ms)
        raise SoldOut(product_id, left)

    async def _borrow(
        self, lender: Shard, home: Shard, epoch: str, product_id: int, missing: int
    ) -> int:
        """Move units of a product to a buyer's home; how many came."""
        loan = secrets.token_hex(8)
        keys = (lender.key, lender.lent, _loan_key(lender, loan))
        args = (loan, epoch, home.number, product_id, missing, REMEMBER_MS)
        note = await lender.believed(lambda: lender.run("lend_units", keys, args))
        if note == "cold":
            await self.gate.heat()
        return 0 if note in ("", "cold") else await self._finish(lender, note)

    async def _finish(self, lender: Shard, note: str) -> int:
        """Bring units to where they were lent, unless that is done; how many."""
        loan, epoch, number, product_id, units = note.split(" ")
        home = self._gates[int(number)]
        keys = (home.key, _loan_key(home, loan))
        args = (epoch, product_id, units, REMEMBER_MS)
        if not await home.believed(lambda: home.run("receive_loan", keys, args)):
            # This home was emptied, and so must be all: the note goes with the gate that wrote it.
            await self.gate.heat()
            return 0
        close = load_script("labshop.storage", "close_loan")
        lender.node.post(close, (lender.key, lender.lent), (note, product_id, units))
        return int(units)

    async def _notes(self, lender: Shard, older_than_ms: int) -> list[str]:
        args = (older_than_ms, SWEEP_SIZE)
        notes: list[str] = await lender.believed(
            lambda: lender.run("list_abandoned", (lender.lent,), args)
        )
        return notes

    async def _look_at_all(self, product_id: int) -> Look:
        """Look at all shards.

        Raises:
            NoSuchProduct. Unavailable: a shard cannot be reached.
        """
        look = await self._look(product_id)
        if look.outage is not None:
            raise look.outage
        return look

    async def _look(self, product_id: int) -> Look:
        """Look at the shards that can be reached; gates that do not belong together are built."""
        for _ in range(HEAT_TRIES):
            asked = (_stock(gate, product_id) for gate in self._gates)
            seen = await asyncio.gather(*asked)
            outages = [it for it in seen if isinstance(it, Unavailable)]
            stocks = tuple(it if isinstance(it, Stock) else None for it in seen)
            look = Look(stocks, outages[0] if outages else None)
            if look.is_of_one_epoch():
                return look
            await self.gate.heat()
        raise Unavailable("gate", "its shards are emptied faster than they are built")


async def _stock(gate: Shard, product_id: int) -> Stock | Unavailable:
    """What a shard has, or why it cannot be asked."""
    names = ("left", "held", "lent", "arrived")
    fields = ("epoch", *(f"{name}:{product_id}" for name in names))
    try:
        epoch, left, *counts = await gate.believed(lambda: gate.ask("HMGET", gate.key, *fields))
    except Unavailable as outage:
        return outage
    if epoch is None:
        return COLD
    if left is None:
        raise NoSuchProduct(product_id)
    held, lent, arrived = (int(count or 0) for count in counts)
    return Stock(epoch, int(left), held, lent, arrived)


def _loan_key(gate: Shard, loan: str) -> str:
    return f"{gate.tag}:loan:{loan}"
