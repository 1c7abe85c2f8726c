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

The shop serves every stage so, and a learner's own; a trial, a lesson and the zoo take them bare.

It does not promise an answer at the deadline: the step under way ends by its own timeout. It does
not guard what a strategy asks of `node` itself, and each process has breakers of its own.
"""

import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from uuid_utils.compat import uuid7

from labshop.resilience import (
    Backoff,
    BreakerState,
    Bulkhead,
    CircuitBreaker,
    NotTried,
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


@dataclass(frozen=True)
class Guards:
    """One for each thing that a purchase depends on; stages that share a store share its guard."""

    gate: Guard
    ledger: Guard
    lock: Guard
    quorum: Guard

    @classmethod
    def of(cls, tools: Toolbox, policy: Policy) -> "Guards":
        """Guards whose breakers tell of their changes by the toolbox's `publish`."""

        def tell(name: str, state: BreakerState) -> None:
            tools.publish(Event("breaker", {"name": name, "state": state}))

        def guard(name: str) -> Guard:
            breaker = CircuitBreaker(
                name,
                failure_threshold=policy.failure_threshold,
                recovery_ms=policy.recovery_ms,
                is_failure=is_failure,
                clock=tools.clock,
                on_change=tell,
            )
            return Guard(breaker, policy.backoff, policy.recovery_ms, tools.clock, policy.chance)

        return cls(guard("gate"), guard("ledger"), guard("lock"), guard("quorum"))

    def __iter__(self) -> Iterator[Guard]:
        return iter((self.gate, self.ledger, self.lock, self.quorum))

    def around(self, tools: Toolbox) -> Toolbox:
        """The same tools, each behind its guard."""
        return replace(
            tools,
            inventory=GuardedInventory(tools.inventory, self.gate),
            ledger=GuardedLedger(tools.ledger, self.ledger),
            lock=GuardedLocks(tools.lock, self.lock),
            quorum_lock=GuardedLocks(tools.quorum_lock, self.quorum),
        )


class Hardened:
    """A strategy that is one as before, and whose `buy` raises `Overloaded` besides.

    Args:
        strategy: its class, or whatever makes one of a `Toolbox`.
        tools: what it is to work with.
        policy: how much is borne.
        guards: those of other stages on the same stores; None makes new ones.
    """

    def __init__(
        self,
        strategy: Callable[[Toolbox], PurchaseStrategy],
        tools: Toolbox,
        policy: Policy,
        guards: Guards | None = None,
    ) -> None:
        guards = guards or Guards.of(tools, policy)
        self.bulkhead = Bulkhead("shop", limit=policy.limit, queue=policy.queue)
        self._policy = policy
        self._clock = tools.clock
        self._strategy = strategy(guards.around(tools))

    async def buy(self, order: Order) -> Receipt:
        """Buy as the strategy does, if there is room and time."""
        policy, orders = self._policy, _anew(order)

        def attempt() -> Awaitable[Receipt]:
            return self._strategy.buy(next(orders))

        try:
            with deadline_in_ms(policy.deadline_ms, self._clock):
                async with self.bulkhead:
                    return await retry(
                        attempt,
                        on=_is_overtaken,
                        backoff=policy.backoff,
                        clock=self._clock,
                        chance=policy.chance,
                    )
        except NotTried as reason:
            raise as_refusal("shop", reason) from reason

    async def aclose(self) -> None:
        """Close the strategy, where it has something to close."""
        if hasattr(self._strategy, "aclose"):
            await self._strategy.aclose()


def harden(
    strategy: Callable[[Toolbox], PurchaseStrategy], **policy: Any
) -> type[PurchaseStrategy]:
    """Wrap a strategy into a class that can stand wherever a stage can.

    Args:
        strategy: its class, or whatever makes one of a `Toolbox`.
        policy: fields of `Policy`.
    """
    terms = Policy(**policy)

    class HardenedStage(Hardened):
        def __init__(self, tools: Toolbox) -> None:
            super().__init__(strategy, tools, terms)

    return HardenedStage


def _anew(order: Order) -> Iterator[Order]:
    """The order, and then copies under ids of their own.

    The gate remembers that an order was given up: whoever begins anew is a new one.
    """
    yield order
    while True:
        yield replace(order, id=uuid7())


def _is_overtaken(error: Exception) -> bool:
    return isinstance(error, StaleFence)
