"""What visitors are shown of the stock: as fresh as looking needs it, and cheap.

The problem: for each who buys a hundred look, and the gate that serves them all is the one that has
to sell. The idea: a number that is shown may be a moment old, and says how old. It is kept for
`ttl_ms`; who asks for one that is not kept waits for one load together with all others; the load
asks a replica if there is a fresh one, else the gate, else the ledger.

What invalidates a number before its time is what turns its meaning round: a product that is known
here to be sold out is shown so at once, and a restock is shown as soon as it is heard of. A sale is
not among them. It would have to tell the cache on the way of every purchase, would empty it just
when the crowd is greatest, and other processes' sales would be late all the same.

It does not promise that what was shown can still be bought: nothing of this is asked when somebody
buys. An unknown product is an error that is not kept, so that asking for a million of them fills
nothing.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from labshop.clock import Clock
from labshop.resilience import Cache
from labshop.shop.errors import NoSuchProduct, Unavailable
from labshop.storage.catalog import Catalog
from labshop.storage.replica import Replica
from labshop.storage.sold_out import SoldOutFlags

KEPT = 1_024
"""Products of which a number is kept; the one that was asked for longest ago goes first."""

Source = Literal["gate", "replica", "ledger"]


class Inventory(Protocol):
    """What is asked of the gate."""

    sold_out: SoldOutFlags

    async def left(self, product_id: int) -> int:
        """Units that can be reserved at this moment."""


@dataclass(frozen=True)
class Shown:
    """Units left of a product, who said so, and up to when that surely counts all sales.

    `as_of_ms` is on this process' monotonic clock. The ledger does not count reservations.
    """

    left: int
    source: Source
    as_of_ms: float


class StockReads:
    """Stock to look at.

    Args:
        inventory: the gate.
        catalog: the ledger's numbers, for while the gate is away.
        replica: where the gate has one.
        ttl_ms: how long a number is kept; 0 keeps none, but those who ask at once share a load.
    """

    def __init__(
        self,
        inventory: Inventory,
        catalog: Catalog,
        *,
        clock: Clock,
        ttl_ms: float,
        replica: Replica | None = None,
        kept: int = KEPT,
    ) -> None:
        self._replica = replica
        self._inventory = inventory
        self._catalog = catalog
        self._clock = clock
        self._cache: Cache[int, Shown] = Cache(self._load, ttl_ms, kept, clock)
        inventory.sold_out.when_restocked(self._forget)

    async def look(self, product_id: int) -> Shown:
        """Units left of a product.

        Raises:
            NoSuchProduct. Unavailable: neither gate nor ledger can be reached.
        """
        sold_out_ms = self._inventory.sold_out.since_ms(product_id)
        if sold_out_ms is not None:
            return Shown(0, "gate", sold_out_ms)
        return await self._cache.get(product_id)

    async def watch(self) -> None:
        """Measure how old the replica's copy is, until cancelled; without one, there is no work."""
        if self._replica is None:
            return
        try:
            await self._replica.watch()
        finally:
            await self._replica.node.close()

    def age_ms(self, shown: Shown) -> float:
        """How old a number is at most, in milliseconds."""
        return self._clock.now_ms() - shown.as_of_ms

    async def _load(self, product_id: int) -> Shown:
        copy = None if self._replica is None else await self._replica.left(product_id)
        if copy is not None:
            return Shown(copy[0], "replica", copy[1])
        asked_ms = self._clock.now_ms()
        try:
            return Shown(await self._inventory.left(product_id), "gate", asked_ms)
        except Unavailable:
            asked_ms = self._clock.now_ms()
            offer = await self._catalog.product(product_id)
            if offer is None:
                raise NoSuchProduct(product_id) from None
            return Shown(offer.stock_left, "ledger", asked_ms)

    def _forget(self, product_id: int | None) -> None:
        if product_id is None:
            self._cache.clear()
        else:
            self._cache.invalidate(product_id)
