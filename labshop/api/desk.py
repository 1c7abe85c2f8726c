"""Where a purchase is taken in: once per idempotency key, and never with a guess for an end.

A buyer whose connection broke sends the same request again, with the same `Idempotency-Key`,
and gets the same answer, as Stripe does it: same key and body, same answer; same key and
another body, refused; same key while the first is under way, told to wait. The key's memory
is the ledger itself, so it holds across restarts and processes; only "under way" is known
to this process alone, and the ledger's unique constraint stands behind it.

An unknown outcome is looked up by the order's id before anybody is told of it.

One user's purchases are counted here, whichever way they come: who sends more than a person could
is told when to come again, before anything is asked of a store.
"""

import math
from uuid import UUID

from labshop.api.errors import InFlight, TooManyTries
from labshop.api.shop import Shop
from labshop.locks import LockError
from labshop.resilience import TokenBuckets
from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import (
    AlreadyBooked,
    KeyReused,
    LimitReached,
    PurchaseError,
    Refused,
    SoldOut,
    Unknown,
)
from labshop.shop.events import Event
from labshop.stages import LOCKLESS


class Desk:
    """Takes orders in for a shop."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._in_flight: set[tuple[int, str | UUID]] = set()
        self._tokens = TokenBuckets(
            per_s=shop.settings.user_rate_per_s, burst=shop.settings.user_burst, clock=shop.clock
        )

    async def buy(self, stage: str, order: Order) -> tuple[Receipt, bool]:
        """Buy by the strategy of a stage.

        Returns:
            The receipt, and whether it is of an earlier request with the same key.

        Raises:
            TooManyTries: this user asks too often.
            InFlight: the same key is under way. Others: see `PurchaseStrategy.buy`.
        """
        wait_ms = self._tokens.take(order.user_id)
        if wait_ms:
            self._shop.metrics.turned_away(stage, "rate")
            raise TooManyTries(math.ceil(wait_ms / 1_000))
        slot = (order.user_id, order.idempotency_key or order.id)
        if slot in self._in_flight:
            raise InFlight
        self._in_flight.add(slot)
        # So ends, too, a request that is cut off.
        outcome = "unknown"
        try:
            receipt, replayed = await self._find_or_buy(stage, order)
            outcome = "replayed" if replayed else "booked"
        except (Refused, LockError):
            outcome = "refused"
            raise
        finally:
            self._in_flight.discard(slot)
            self._shop.metrics.purchase(stage, outcome)
        if not replayed:
            self._announce(stage, receipt)
        return receipt, replayed

    async def _find_or_buy(self, stage: str, order: Order) -> tuple[Receipt, bool]:
        # Behind a lock, a repeated request would stand in line; without one, the ledger tells.
        earlier = None if stage in LOCKLESS else await self._earlier(order)
        if earlier is not None:
            return earlier, True
        try:
            # Before a buyer stands in line; the gate's flags are looked at once more behind it.
            self._shop.inventory.sold_out.refuse(order.lines)
            return await self._shop.strategies[stage].buy(order), False
        except AlreadyBooked as booked:
            return booked.receipt, True
        except (SoldOut, LimitReached):
            # The same request in another process may be what took the last units.
            twin = await self._earlier(order)
            if twin is None:
                raise
            return twin, True
        except Unknown as doubt:
            return await self._look_up(order, doubt), False

    async def _earlier(self, order: Order) -> Receipt | None:
        """What stands in the ledger under the order's key."""
        if order.idempotency_key is None:
            return None
        booked = await self._shop.ledger.find_by_key(order.user_id, order.idempotency_key)
        if booked is not None and booked.fingerprint != order.fingerprint:
            raise KeyReused(order.idempotency_key)
        return booked

    async def _look_up(self, order: Order, doubt: Unknown) -> Receipt:
        try:
            # Not the order's own id: a hardened stage may have begun anew under another.
            receipt = await self._shop.ledger.find(doubt.order_id)
        except PurchaseError:
            raise doubt from None
        if receipt is None:
            # Its transaction may still be under way.
            raise doubt
        return receipt

    def _announce(self, stage: str, receipt: Receipt) -> None:
        if not self._shop.events.is_heard:
            return
        lines = {line.product_id: line.quantity for line in receipt.lines}
        details = {"stage": stage, "order_id": str(receipt.order_id), "lines": lines}
        self._shop.events.publish(Event("purchase", details))
