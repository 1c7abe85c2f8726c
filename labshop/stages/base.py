"""What a stage is, and what it is given.

A stage is a class with one method, `buy`. It gets its tools, and composes them in a few
lines; those lines are the lesson. No base class is needed: a learner's own class in a
notebook cell is a stage as good as any.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast
from uuid import UUID

from labshop.clock import Clock
from labshop.errors import SetupError
from labshop.locks import Lock, Node
from labshop.shop.domain import Order, Receipt
from labshop.shop.events import Event


class Inventory(Protocol):
    """The fast gate in front of the ledger. Each call is one atomic step in Redis."""

    async def reserve(self, order: Order) -> None:
        """Set the order's units aside; the same order twice is reserved once.

        Raises:
            SoldOut, StockHeld, LimitReached, SaleClosed, NoSuchProduct, SignedOut, Unavailable.
        """

    async def release(self, order_id: UUID) -> None:
        """Give back what the order had reserved, once; harmless if it had nothing.

        Raises:
            Unavailable: the gate cannot be reached.
        """

    async def confirm(self, receipt: Receipt) -> None:
        """Turn the reservation into a sale. It never fails: the receipt stands already."""

    def confirm_soon(self, receipt: Receipt) -> None:
        """The same, sent and not waited for; a gate that does not answer is built anew."""


class Ledger(Protocol):
    """The truth: what was sold."""

    async def record(self, order: Order, *, fence: int) -> Receipt:
        """Book the order durably, if stock, limit and fence allow it.

        Raises:
            SoldOut, LimitReached, SaleClosed, NoSuchProduct, StaleFence, AlreadyBooked,
            KeyReused, Unavailable: nothing was booked.
            Unknown: the transaction began, and its end was not seen.
        """


class MakeLock(Protocol):
    """Makes a lock on a name; of several names, one that holds all of them or none."""

    def __call__(self, *names: str) -> Lock:
        """The lock; it is not acquired yet."""


@dataclass(frozen=True)
class Toolbox:
    """What a stage may use.

    `lock` makes locks on one node, `quorum_lock` on a majority of five; `lock_wait_ms` is how long
    a buyer may wait for one. `node` is Redis itself, for a strategy that goes its own way.
    """

    lock: MakeLock
    quorum_lock: MakeLock
    inventory: Inventory
    ledger: Ledger
    clock: Clock
    publish: Callable[[Event], None]
    node: Node
    lock_wait_ms: int


class PurchaseStrategy(Protocol):
    """A way to buy."""

    def __init__(self, tools: Toolbox) -> None: ...

    async def buy(self, order: Order) -> Receipt:
        """Book the order.

        Raises:
            Refused: nothing was booked. LockError: the same, the lock was not held.
            Unknown: look the order up.
        """


def load_strategy(path: str) -> type[PurchaseStrategy]:
    """Import a strategy by ``package.module:Class``.

    Raises:
        SetupError: there is no such module or class, or it has no `buy`.
    """
    module_name, _, class_name = path.partition(":")
    try:
        strategy = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SetupError(f"The strategy {path!r} cannot be loaded: {error}.") from error
    if not callable(getattr(strategy, "buy", None)):
        raise SetupError(f"The strategy {path!r} has no method `buy`.")
    return cast("type[PurchaseStrategy]", strategy)
