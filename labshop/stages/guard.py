"""A stage's tools, each behind a guard: what `labshop.stages.harden` hands to a strategy.

A guard stands in front of one thing that a purchase depends on. It asks for time, asks the breaker,
makes the call, and makes it again where its failure is certain. A call that it does not make is a
refusal of the shop, so a saga undoes what came before.

What undoes or settles a reservation passes at any time: refused, it would hold units back.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar
from uuid import UUID

from labshop.clock import Clock
from labshop.locks import Lease, Lock, LockError, NodeError, NoQuorum
from labshop.resilience import (
    Backoff,
    CircuitBreaker,
    NotTried,
    check_deadline,
    remaining_ms,
    retry,
)
from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import Overloaded, Refused, Unavailable
from labshop.stages.base import Inventory, Ledger, MakeLock

P = ParamSpec("P")
T = TypeVar("T")


def is_failure(error: Exception) -> bool:
    """Whether an error says that a store or a node is not well.

    A refusal is an answer, and so is a lock that others hold. `Unknown` is none, nor is a defect.
    """
    if isinstance(error, (Refused, LockError)):
        return isinstance(error, (Unavailable, NodeError, NoQuorum))
    return True


def may_be_repeated(error: Exception) -> bool:
    """Whether a step failed because of a store or a node, and certainly did not happen."""
    if isinstance(error, LockError):
        return error.definite and isinstance(error, (NodeError, NoQuorum))
    return isinstance(error, Unavailable) and not isinstance(error, Overloaded)


def as_refusal(name: str, reason: NotTried) -> Overloaded:
    """A call that was not made, in the shop's own words."""
    return Overloaded(name, str(reason), reason.retry_after_ms)


@dataclass
class Guard:
    """In front of what the breaker is named after."""

    breaker: CircuitBreaker
    backoff: Backoff
    probe_wait_ms: float
    """How long a probe may wait for a lock: meanwhile everybody else is refused."""
    clock: Clock
    chance: random.Random
    retries: int = 0
    """How many calls have been made once more."""

    async def call(self, step: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call.

        Raises:
            Overloaded: it was not made. Others: as the call.
        """

        async def attempt() -> T:
            check_deadline()
            return await self.breaker.call(step, *args, **kwargs)

        try:
            return await retry(
                attempt,
                on=may_be_repeated,
                backoff=self.backoff,
                clock=self.clock,
                chance=self.chance,
                before_again=self._count,
            )
        except NotTried as reason:
            raise as_refusal(self.breaker.name, reason) from reason

    def _count(self) -> None:
        self.retries += 1


@dataclass(frozen=True)
class GuardedInventory:
    """The gate; `labshop.stages.base.Inventory` says what its methods do."""

    inventory: Inventory
    guard: Guard

    async def reserve(self, order: Order) -> None:
        await self.guard.call(self.inventory.reserve, order)

    async def release(self, order_id: UUID) -> None:
        await self.inventory.release(order_id)

    async def confirm(self, receipt: Receipt) -> None:
        await self.inventory.confirm(receipt)

    def confirm_soon(self, receipt: Receipt) -> None:
        self.inventory.confirm_soon(receipt)


@dataclass(frozen=True)
class GuardedLedger:
    """The ledger; `labshop.stages.base.Ledger` says what it does."""

    ledger: Ledger
    guard: Guard

    async def record(self, order: Order, *, fence: int) -> Receipt:
        return await self.guard.call(self.ledger.record, order, fence=fence)


@dataclass(frozen=True)
class GuardedLocks:
    """Makes locks whose acquisition is guarded; the body that they protect is not."""

    make: MakeLock
    guard: Guard

    def __call__(self, *names: str) -> Lock:
        return _GuardedLock(self.make(*names), self.guard)


@dataclass(frozen=True)
class _GuardedLock:
    lock: Lock
    guard: Guard

    @asynccontextmanager
    async def hold(self, *, wait_ms: float) -> AsyncIterator[Lease]:
        async with AsyncExitStack() as held:

            def acquire() -> Awaitable[Lease]:
                is_probe = self.guard.breaker.state == "half_open"
                at_most_ms = self.guard.probe_wait_ms if is_probe else wait_ms
                bound_ms = min(wait_ms, at_most_ms, remaining_ms())
                return held.enter_async_context(self.lock.hold(wait_ms=bound_ms))

            lease = await self.guard.call(acquire)
            yield lease
