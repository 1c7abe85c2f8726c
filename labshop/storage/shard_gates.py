"""Several gates that hold one sale together: they are built together, or not at all.

The problem: each shard sells its own part of the stock, so no shard can be built alone. What one
of them had left when its server lost its memory is known to nobody: the ledger knows only what all
of them have sold. The idea: whoever finds one shard empty builds all of them, each with its part of
one snapshot. The ticket of the first shard says who builds, as the ticket of a single gate does;
those of the others prove that their memory, too, is the one that was empty before the ledger was
read. All shards get one ticket, which becomes their epoch: shards of one epoch are of one snapshot.

It does not promise to build while a server is away: until then, the others sell what they have.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace

from labshop.clock import Clock
from labshop.locks import Node
from labshop.lua import load_script
from labshop.shop.errors import Unavailable
from labshop.storage.gate import (
    HEAT_PAUSE_MS,
    HEAT_WAIT_MS,
    LONGEST_HEAT_PAUSE_MS,
    TICKET_MS,
    Gate,
)
from labshop.storage.records import Snapshot


def home_of(user_id: int, shards: int) -> int:
    """The number of a buyer's shard: always the same, for there the units per user are counted."""
    return user_id % shards


def split(snapshot: Snapshot, shards: int) -> Iterator[Snapshot]:
    """The parts of a snapshot: to each shard its share of the units, and its own buyers."""
    for number in range(shards):
        left = {
            product_id: (units + shards - 1 - number) // shards
            for product_id, units in snapshot.left.items()
        }
        bought = {
            user_id: units
            for user_id, units in snapshot.bought.items()
            if home_of(user_id, shards) == number
        }
        yield replace(snapshot, left=left, bought=bought)


class ShardSet:
    """The gates of all shards of a sale.

    Args:
        nodes: the server of each shard; the same ones in the same order in every process.
        snapshot: reads the ledger; the source when the gates are built.
        clock: bounds how long building them is waited for.
        sale_id: which sale.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        snapshot: Callable[[], Awaitable[Snapshot]],
        *,
        clock: Clock,
        sale_id: int,
    ) -> None:
        self.suspect = False
        """See `Gate.suspect`; what is wrong with one shard is wrong with all."""
        self.shards = tuple(
            Shard(self, number, node, snapshot, clock=clock, sale_id=sale_id)
            for number, node in enumerate(nodes)
        )
        self._clock = clock
        self._builder = secrets.token_hex(8)
        self._is_building = False

    async def heat(self) -> None:
        """Build all gates from the ledger, if they are not all of one snapshot.

        Raises:
            Unavailable: a shard or the ledger cannot be reached.
        """
        deadline_ms = self._clock.now_ms() + HEAT_WAIT_MS
        pause_ms = HEAT_PAUSE_MS
        while self._clock.now_ms() < deadline_ms:
            if await self._are_of_one_epoch():
                return
            if not self._is_building and await self._build():
                return
            # Somebody else is reading the ledger for them.
            await self._clock.sleep_ms(pause_ms)
            pause_ms = min(2 * pause_ms, LONGEST_HEAT_PAUSE_MS)
        raise Unavailable("gate", "its shards could not be built in time")

    async def rebuild(self) -> None:
        """Drop all gates and build them anew; see `Gate.rebuild`.

        Raises:
            Unavailable: a shard or the ledger cannot be reached; the gate stays suspect.
        """
        self.suspect = False
        try:
            # While one is away, nothing is dropped: the others have something to sell.
            await asyncio.gather(*(shard.ask("PING") for shard in self.shards))
            await self.shards[0].ask("UNLINK", self.shards[0].key, self.shards[0].ticket)
            await self.heat()
        except BaseException:
            self.suspect = True
            raise

    async def _are_of_one_epoch(self) -> bool:
        asked = (shard.ask("HGET", shard.key, "epoch") for shard in self.shards)
        epochs = set(await asyncio.gather(*asked))
        return len(epochs) == 1 and None not in epochs

    async def _build(self) -> bool:
        number = secrets.token_hex(8)
        ticket = f"{self._builder}:{number}"
        is_built, self._is_building = False, True
        try:
            async with AsyncExitStack() as kept:
                if await self._claim(number):
                    for shard in self.shards:
                        await kept.enter_async_context(shard.kept(ticket))
                    is_built = await self._install(ticket, await self.shards[0].snapshot())
            return is_built
        finally:
            self._is_building = False
            if not is_built:
                # One may have been taken, also where the reply was lost; nobody waits for it.
                for shard in self.shards:
                    shard.hand_in(ticket)

    async def _claim(self, number: str) -> bool:
        first, *others = self.shards
        if not await first.claim(self._builder, number):
            return False
        for shard in others:
            # Whoever holds this one has lost the first, and builds no more.
            await shard.ask("UNLINK", shard.ticket)
            if not await shard.claim(self._builder, number):
                return False
        return True

    async def _install(self, ticket: str, snapshot: Snapshot) -> bool:
        # In their order, and no further than the first that fails: a builder that was overtaken
        # has lost the first ticket first.
        for shard, part in zip(self.shards, split(snapshot, len(self.shards)), strict=True):
            if not await shard.install(ticket, part):
                return False
        return True


class Shard(Gate):
    """The gate of one shard: what is its own business is a gate's, how it is built is the set's."""

    def __init__(
        self,
        together: ShardSet,
        number: int,
        node: Node,
        snapshot: Callable[[], Awaitable[Snapshot]],
        *,
        clock: Clock,
        sale_id: int,
    ) -> None:
        self._together = together
        super().__init__(node, snapshot, clock=clock, sale_id=sale_id)
        self.number = number
        self.lent = f"{self.tag}:lent"

    @property
    def suspect(self) -> bool:
        """See `ShardSet.suspect`."""
        return self._together.suspect

    @suspect.setter
    def suspect(self, is_suspect: bool) -> None:
        self._together.suspect = is_suspect

    async def heat(self) -> None:
        """See `ShardSet.heat`."""
        await self._together.heat()

    async def rebuild(self) -> None:
        """See `ShardSet.rebuild`."""
        await self._together.rebuild()

    async def claim(self, builder: str, number: str) -> bool:
        """Take the ticket, if nobody has it, and drop the gate with its notes."""
        if not await self.run("take_ticket", (self.ticket,), (builder, number, 1, TICKET_MS)):
            return False
        await self.ask("UNLINK", self.key, self.lent)
        return True

    def kept(self, ticket: str) -> AbstractAsyncContextManager[None]:
        """The ticket is kept for the length of a body."""
        return self._kept(ticket)

    async def install(self, ticket: str, part: Snapshot) -> bool:
        """Build this gate from its part of a snapshot, if the ticket is still here."""
        return await self._install(ticket, part)

    def hand_in(self, ticket: str) -> None:
        """Give the ticket back, also where it is not known whether it was taken."""
        self.node.post(load_script("labshop.locks", "release_lock"), (self.ticket,), (ticket,))
