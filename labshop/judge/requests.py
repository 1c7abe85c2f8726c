"""What each buyer asked for, and what the ledger shows of it.

The problem: a buyer whose reply was lost asks again, so several operations are one purchase. The
idea: attempts of one user under one idempotency key, or under one order id that the buyer chose,
form a *request*. The orders that an audit lists are matched with requests by these same names.

A key belongs to its user: two users may use the same one. Where no user was recorded, each
process counts as a user.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from labshop.judge.history import History, Operation, as_name, by_product

Name = tuple[str, ...]
"""What tells an order: ``("order", id)``, or ``("key", user, key)``."""


@dataclass(frozen=True)
class Request:
    """What one buyer asked for, once or several times."""

    attempts: tuple[Operation, ...]

    @property
    def user(self) -> str | None:
        return self.attempts[0].user

    @property
    def buyer(self) -> str:
        """The user; where none was recorded, the process."""
        return self.user or f"process {self.attempts[0].process}"

    @property
    def key(self) -> str | None:
        return self.attempts[0].key

    @property
    def answers(self) -> dict[str, Operation]:
        """The first answer that names each booked order; one without a name is ""."""
        answered: dict[str, Operation] = {}
        for attempt in self.attempts:
            if attempt.outcome == "ok":
                answered.setdefault(attempt.order_id or "", attempt)
        if len(answered) > 1:
            answered.pop("", None)
        return answered

    @property
    def ended_ms(self) -> float:
        """When the buyer stopped asking; infinite if that was not seen."""
        ends = (attempt.ended_ms for attempt in self.attempts)
        return max(math.inf if end is None else end for end in ends)

    @property
    def names(self) -> frozenset[Name]:
        """All names by which an order of this request can be recognised."""
        names = {("order", a.order_id) for a in self.attempts if a.order_id is not None}
        keyed = self.key is not None and self.user is not None
        return frozenset(names | ({("key", str(self.user), str(self.key))} if keyed else set()))

    def shown_by(self, attempt: Operation) -> tuple[Operation, ...]:
        """The first attempt, from when on it may have happened, and the one that shows it."""
        first = self.attempts[0]
        return (first,) if attempt is first else (first, attempt)


@dataclass(frozen=True)
class Sighting:
    """An order, as one audit lists it."""

    audit: Operation
    row: Mapping[str, Any]

    @property
    def order(self) -> str:
        return str(self.row["order"])

    @property
    def lines(self) -> dict[int, int]:
        """Units by product."""
        return {product: units for product, units in by_product(self.row["lines"]).items() if units}

    @property
    def is_cancelled(self) -> bool:
        return self.row.get("status") == "cancelled"

    @property
    def names(self) -> tuple[Name, ...]:
        user, key = as_name(self.row.get("user")), as_name(self.row.get("key")) or None
        keyed = user is not None and key is not None
        return (("order", self.order), *([("key", str(user), str(key))] if keyed else []))

    def alone(self) -> Operation:
        """The audit, as far as it shows this order."""
        args = {name: value for name, value in self.audit.args.items() if name == "place"}
        name, told = f"{self.audit.id}:{self.order}", {"orders": [dict(self.row)]}
        return replace(self.audit, id=name, args=args, result=told)


def requests_of(history: History) -> tuple[Request, ...]:
    """The purchases of a history, in the order in which they were first asked for."""
    grouped: dict[tuple[Any, ...], list[Operation]] = defaultdict(list)
    for buy in history.of("buy"):
        named = as_name(buy.args.get("order"))
        if buy.key is not None:
            grouped["key", buy.user, buy.process if buy.user is None else "", buy.key].append(buy)
        else:
            grouped["call", buy.id if named is None else "", buy.user, named].append(buy)
    return tuple(Request(tuple(attempts)) for attempts in grouped.values())


def sightings_of(audits: Iterable[Operation]) -> Mapping[Name, list[Sighting]]:
    """Every row of every audit, by the names of its order."""
    seen: dict[Name, list[Sighting]] = defaultdict(list)
    for sighting in _rows(audits):
        for name in sighting.names:
            seen[name].append(sighting)
    return seen


def _rows(audits: Iterable[Operation]) -> Iterator[Sighting]:
    for audit in audits:
        for row in audit.result.get("orders") or ():
            yield Sighting(audit, row)
