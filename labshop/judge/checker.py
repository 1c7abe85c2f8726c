"""The judge: holds a history against every property, and shows the smallest that breaks one.

The properties are independent of each other and of the shop that they judge; each is a function
from evidence to violations, in the room of its subject. To judge something else, write one more
and name it in `PROPERTIES`.

A verdict VALID means that no violation is in this history. It does not promise that there is none
in the next.
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice

from labshop.judge.evidence import Evidence
from labshop.judge.history import History
from labshop.judge.leases import (
    EXCLUSIVE,
    FENCES,
    ONE_PROBE,
    exclusive_leases,
    no_stale_fence,
    one_probe,
)
from labshop.judge.linear import LINEARIZABLE, linearizable_stock
from labshop.judge.orders import (
    ALL_OR_NOTHING,
    DEFINITE,
    DURABLE,
    IDEMPOTENCY,
    LIMIT,
    all_or_nothing,
    definite_answers,
    durable_orders,
    idempotency,
    limit_per_user,
)
from labshop.judge.search import Undecided
from labshop.judge.stock import (
    CONSERVATION,
    OVERSELL,
    UNDERSELL,
    conservation,
    no_oversell,
    no_undersell,
)
from labshop.judge.verdict import Verdict, Violation

Property = Callable[[Evidence], Iterator[Violation]]

PROPERTIES: Mapping[str, Property] = {
    OVERSELL: no_oversell,
    UNDERSELL: no_undersell,
    CONSERVATION: conservation,
    LIMIT: limit_per_user,
    ALL_OR_NOTHING: all_or_nothing,
    DURABLE: durable_orders,
    IDEMPOTENCY: idempotency,
    EXCLUSIVE: exclusive_leases,
    FENCES: no_stale_fence,
    ONE_PROBE: one_probe,
    DEFINITE: definite_answers,
    LINEARIZABLE: linearizable_stock,
}
"""What a run must hold, the worst first."""

MOST_VIOLATIONS = 20
"""Violations of one property that are reported."""


def check(history: History, properties: Collection[str] = tuple(PROPERTIES)) -> Verdict:
    """Judge a history.

    Args:
        history: what was recorded, in full or in part.
        properties: which to check, by name; all by default.

    Raises:
        ValueError: there is no such property.
    """
    strange = [name for name in properties if name not in PROPERTIES]
    if strange:
        raise ValueError(f"no such property: {', '.join(strange)}; known: {', '.join(PROPERTIES)}")
    evidence = Evidence(history)
    violations: list[Violation] = []
    undecided: list[str] = []
    for name in properties:
        try:
            violations += islice(PROPERTIES[name](evidence), MOST_VIOLATIONS)
        except Undecided as gave_up:
            undecided.append(f"{name}: {gave_up}")
    undecided += [*_unread(evidence), *_uncounted(evidence)]
    measures = {"overtaken at most": float(most_overtaken(evidence))}
    if violations:
        more = len({v.property for v in violations}) - 1
        others = f" ({more} other properties are broken too)" if more > 1 else ""
        others = " (one other property is broken too)" if more == 1 else others
        reason = f"{violations[0]}{others}"
        return Verdict("INVALID", reason, tuple(violations), tuple(undecided), measures)
    if undecided:
        return Verdict("UNKNOWN", "; ".join(undecided), (), tuple(undecided), measures)
    return Verdict("VALID", _summary(evidence, len(properties)), measures=measures)


def most_overtaken(evidence: Evidence) -> int:
    """How often the least lucky buyer was overtaken: the measure of fairness.

    A buyer is overtaken by each who asked later and was served earlier; first in, first out is 0.
    """
    served = sorted(
        (answer.latest_ms, request.attempts[0].invoked_ms)
        for request in evidence.requests
        for answer in request.answers.values()
    )
    most, asked = 0, list[float]()
    for _, asked_ms in served:
        most = max(most, len(asked) - bisect_right(asked, asked_ms))
        insort(asked, asked_ms)
    return most


def _unread(evidence: Evidence) -> list[str]:
    """Audits that failed, where none succeeded: an unread ledger proves nothing."""
    failed = [audit for audit in evidence.history.of("audit") if audit.outcome != "ok"]
    if failed and not evidence.audits:
        return [f"the ledger could not be read: {failed[-1].error or 'no answer'}"]
    return []


def _uncounted(evidence: Evidence) -> list[str]:
    """Products that were bought, and nobody says how many of them there were."""
    bought = {p for buy in evidence.history.of("buy") if buy.outcome == "ok" for p in buy.lines}
    return [
        f"the sale does not say how many units of product {product} there were"
        for product in sorted(bought - evidence.stock.keys())
    ]


def _summary(evidence: Evidence, checked: int) -> str:
    sold = {
        product: -sum(move.units for move in moves if move.certain and move.buyer is not None)
        for product, moves in evidence.movements.items()
    }
    there = {
        product: evidence.stock[product]
        + sum(move.units for move in moves if move.certain and move.buyer is None)
        for product, moves in evidence.movements.items()
    }
    units = ", ".join(
        # A restock without an answer must have come, if more was sold than there was without it.
        f"{sold[product]} of {max(stock, sold[product])} sold of product {product}"
        for product, stock in sorted(there.items())
    )
    counted = f"{checked} properties hold over {len(evidence.history)} operations"
    return f"{units}; {counted}" if units else counted
