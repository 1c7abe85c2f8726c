"""What was done to a shop, by whom, when, and what they were told.

The problem: whether a sale was right cannot be seen in its end alone. The idea (Jepsen's): every
operation is written down twice, when it is invoked and when its answer comes, on one monotonic
clock; a judge then looks for an order of effects that explains all answers. An operation without
a definite answer stays *unknown* for ever: it may have taken effect at any time since, or never.

These are the values; `labshop.judge.lines` writes and reads them as text. What the actions are,
and what their arguments and results mean, stands in ``docs/history.md``.

It does not promise that clocks of two machines can be compared.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OperationOutcome = Literal["ok", "fail", "unknown"]
OUTCOMES: tuple[OperationOutcome, ...] = ("ok", "fail", "unknown")


@dataclass(frozen=True)
class Operation:
    """One request and its end.

    `ended_ms` is when the answer came, or when whoever asked stopped waiting; None if that was
    not seen. See ``docs/history.md`` for the actions, their arguments and their results.
    """

    id: str
    process: str
    action: str
    args: Mapping[str, Any]
    invoked_ms: float
    ended_ms: float | None = None
    outcome: OperationOutcome = "unknown"
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def latest_ms(self) -> float:
        """Until when it can have taken effect: without a definite answer, for ever."""
        if self.outcome == "unknown" or self.ended_ms is None:
            return math.inf
        return self.ended_ms

    @property
    def error(self) -> str:
        """The name of the error that it ended with, if it did."""
        return str(self.result.get("error", ""))

    @property
    def lines(self) -> dict[int, int]:
        """What is bought: units by product."""
        return by_product(self.args.get("lines"))

    @property
    def order_id(self) -> str | None:
        """The order that it made, or meant to make."""
        named = self.result.get("order")
        return as_name(self.args.get("order") if named is None else named)

    @property
    def user(self) -> str | None:
        """Who buys or cancels, if that was recorded."""
        return as_name(self.args.get("user"))

    @property
    def key(self) -> str | None:
        """The idempotency key; one without a letter is none."""
        return as_name(self.args.get("key")) or None


def as_name(value: object) -> str | None:
    """A name as text: one program writes user 7, another "7", and both mean the same."""
    return None if value is None else str(value)


def by_product(units: Mapping[Any, Any] | None) -> dict[int, int]:
    """Units by product. In JSON every name of a field is text, in Python it may be a number."""
    return {int(product): int(count) for product, count in (units or {}).items()}


@dataclass(frozen=True)
class LockRecord:
    """Something that happened to a lock; `until_ms` is when its holder's claim ends."""

    at_ms: float
    process: str
    event: str
    key: str
    token: str
    fence: int = 0
    until_ms: float = 0.0
    asked_ms: float | None = None
    operation: str | None = None


@dataclass(frozen=True)
class FaultRecord:
    """A fault that lasted from `began_ms` to `ended_ms`; None if its end was not seen."""

    name: str
    target: str
    began_ms: float
    ended_ms: float | None = None


@dataclass(frozen=True)
class BreakerRecord:
    """A circuit breaker changed to `state`: closed, open, or half_open."""

    at_ms: float
    process: str
    name: str
    state: str


@dataclass(frozen=True)
class Sale:
    """What was on sale at the beginning: units by product, and units that one user may buy.

    `sold` is what had been sold before, by product, where the history begins in mid-sale.
    """

    stock: Mapping[int, int] = field(default_factory=dict)
    limit_per_user: int | None = None
    sold: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """One run. Operations are in the order of their invocation."""

    sale: Sale = field(default_factory=Sale)
    operations: tuple[Operation, ...] = ()
    locks: tuple[LockRecord, ...] = ()
    faults: tuple[FaultRecord, ...] = ()
    breakers: tuple[BreakerRecord, ...] = ()

    def of(self, action: str) -> Iterator[Operation]:
        """The operations of one action."""
        return (operation for operation in self.operations if operation.action == action)

    def __len__(self) -> int:
        return len(self.operations)
