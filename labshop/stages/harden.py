"""Harden: any stage, or a learner's own, kept alive while what it depends on is not.

The problem: a store that is away makes every buyer wait, hold a place and come again, until the
shop dies of the crowd in front of it. The idea: the strategy stays as it is, and gets other tools.

- *Bulkhead*: so many buyers are inside, so many wait; the next one is told at once to come again.
- *Deadline*: no step begins when the buyer's time is over, and nobody waits for a lock longer.
- *Breaker*: one for the gate, the ledger and each kind of lock. Who fails again and again is left
  in peace, and then tried by one buyer. "Sold out" and "contended" are answers, not failures.
- *Retry*: of a step that certainly did not happen, or that happens once however often it is asked
  for: a reservation, which the gate knows by the order's id; a lock that was not had; an order
  that the ledger did not take in. After `Unknown` nobody tries again: the order may stand. Who was
  overtaken by a later holder of the lock begins anew, once all is undone.

It does not promise an answer at the deadline: the step under way ends by its own timeout. It does
not guard what a strategy asks of `node` itself, and each process has breakers of its own.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from uuid_utils.compat import uuid7

from labshop.resilience import (
    Backoff,
    BreakerState,
    Bulkhead,
    CircuitBreaker,
    deadline_in_ms,
    retry,
)
from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import StaleFence
from labshop.shop.events import Event
from labshop.stages.base import PurchaseStrategy, Toolbox
from labshop.stages.guard import (
    Guard,
    GuardedInventory,
    GuardedLedger,
    GuardedLocks,
    as_refusal,
    is_failure,
)


@dataclass(frozen=True)
class Policy:
    """How much is borne; a breaker recovers soon, for a shop is to be back within seconds."""

    limit: int = 256
    queue: int = 1_024
    deadline_ms: float = 10_000
    failure_threshold: int = 5
    recovery_ms: float = 1_000
    backoff: Backoff = field(default_factory=Backoff)
    chance: random.Random = field(default_factory=random.Random)

    def guard(self, name: str, tools: Toolbox) -> Guard:
        """A guard in front of one dependency, whose breaker tells the shop of its changes."""

        def tell(name: str, state: BreakerState) -> None:
            tools.publish(Event("breaker", {"name": name, "state": state}))

        breaker = CircuitBreaker(
            name,
            failure_threshold=self.failure_threshold,
            recovery_ms=self.recovery_ms,
            is_failure=is_failure,
            clock=tools.clock,
            on_change=tell,
        )
        return Guard(breaker, self.backoff, self.recovery_ms, tools.clock, self.chance)


def harden(
    strategy: Callable[[Toolbox], PurchaseStrategy], **policy: Any
) -> type[PurchaseStrategy]:
    """Wrap a strategy; the result is one as well, whose `buy` raises `Overloaded` besides.

    Args:
        strategy: its class, or whatever makes one of a `Toolbox`.
        policy: fields of `Policy`.
    """
    terms = Policy(**policy)

    class Hardened:
        def __init__(self, tools: Toolbox) -> None:
            self._clock = tools.clock
            self._bulkhead = Bulkhead("shop", limit=terms.limit, queue=terms.queue)
            self._strategy = strategy(_guarded(tools, terms))

        async def buy(self, order: Order) -> Receipt:
            """Buy as the strategy does, if there is room and time."""
            # The gate remembers that an order was given up: whoever begins anew is a new one.
            ids = chain((order.id,), iter(uuid7, None))

            def attempt() -> Awaitable[Receipt]:
                return self._strategy.buy(replace(order, id=next(ids)))

            with as_refusal("shop"), deadline_in_ms(terms.deadline_ms, self._clock):
                async with self._bulkhead:
                    return await retry(
                        attempt,
                        on=_is_overtaken,
                        backoff=terms.backoff,
                        clock=self._clock,
                        chance=terms.chance,
                    )

        async def aclose(self) -> None:
            """Close the strategy, where it has something to close."""
            if hasattr(self._strategy, "aclose"):
                await self._strategy.aclose()

    return Hardened


def _guarded(tools: Toolbox, policy: Policy) -> Toolbox:
    return replace(
        tools,
        inventory=GuardedInventory(tools.inventory, policy.guard("gate", tools)),
        ledger=GuardedLedger(tools.ledger, policy.guard("ledger", tools)),
        lock=GuardedLocks(tools.lock, policy.guard("lock", tools)),
        quorum_lock=GuardedLocks(tools.quorum_lock, policy.guard("quorum", tools)),
    )


def _is_overtaken(error: Exception) -> bool:
    return isinstance(error, StaleFence)
