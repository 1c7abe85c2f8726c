"""Draws a verdict: the smallest history that breaks a property, as a timeline.

The problem: "oversold by one" convinces nobody; seeing two buyers get the same last unit does. The
idea: the witness of a violation has a handful of operations, so each gets a bar in the lane of
whoever asked; leases are bars, faults are bands, and a star marks what cannot be. The counter of
a product stands in a lane of its own, as far as the answers tell it.

Moments are numbered, not timed: what matters is what came before what, and a race of a
millisecond would be invisible beside a lease of a second.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import plotly.graph_objects as go

from labshop.judge.history import History, Operation
from labshop.judge.leases import EXCLUSIVE, FENCES, ONE_PROBE, claims_of
from labshop.judge.linear import LINEARIZABLE
from labshop.judge.orders import ALL_OR_NOTHING, DEFINITE, DURABLE, IDEMPOTENCY, LIMIT
from labshop.judge.stock import CONSERVATION, OVERSELL, UNDERSELL
from labshop.judge.verdict import Verdict, Violation
from labshop.lab.lanes import Band, Bar, BarKind, Point, timeline
from labshop.lab.renderer import show

MOST_OPERATIONS = 14
"""Operations of a witness that are drawn; a chart with more lanes is not read."""

_KINDS: dict[str, BarKind] = {"ok": "booked", "fail": "turned away", "unknown": "no answer"}

_ORDINALS = ("", "1st", "2nd", "later")

LEASE = ", lease"
BESIDE = " +"

TITLES = {
    OVERSELL: "A unit that was not there is sold",
    UNDERSELL: "A buyer is sent away from a unit that is there",
    CONSERVATION: "What is left and what is sold do not add up",
    LIMIT: "A user gets more than one user may buy",
    ALL_OR_NOTHING: "An order stands in part, or against its refusal",
    DURABLE: "A receipt without an order",
    IDEMPOTENCY: "One key, two orders",
    EXCLUSIVE: "Two hold the lock at once",
    FENCES: "An older fence after a newer one",
    ONE_PROBE: "A half-open breaker lets a herd through",
    DEFINITE: "No answer",
    LINEARIZABLE: "No order of effects explains these answers",
}

Events = list[Bar | Point | Band]


def show_verdict(verdict: Verdict) -> None:
    """Print a verdict's sentence, and draw the smallest failing history if there is one."""
    print(verdict)
    if verdict.violations:
        show(draw(verdict.violations[0]))


def draw(violation: Violation) -> go.Figure:
    """Draw the witness of a violation.

    Args:
        violation: of any property.

    Returns:
        A timeline; its caption is the violation's reason.
    """
    witness = violation.witness
    operations = _chosen(violation)
    step_of = _steps(witness, operations)
    guilty = _guilty(violation)
    drawn = [*_asked(operations, step_of, guilty), *_leases(witness, step_of, guilty)]
    # A buyer's lease stands under the buyer.
    processes = [operation.process for operation in operations]
    drawn.sort(key=lambda event: _owner(event.lane, processes))
    events: Events = [*_stock(witness, operations, step_of), *drawn, *_faults(witness, step_of)]
    caption = f"{violation.reason[0].upper()}{violation.reason[1:]}."
    return timeline(
        events, title=TITLES.get(violation.property, violation.property), caption=caption
    )


def _guilty(violation: Violation) -> Collection[str]:
    """The culprit at whose end the contradiction stands; of leases, the one granted last."""
    ends = [
        (it.ended_ms or it.invoked_ms, it.id)
        for it in violation.witness.operations
        if it.id in violation.culprits
    ]
    return {max(ends)[1]} if ends else set(violation.culprits[-1:])


def _owner(lane: str, processes: list[str]) -> int:
    process = lane.removesuffix(LEASE).rstrip(BESIDE)
    return processes.index(process) if process in processes else len(processes)


def _chosen(violation: Violation) -> tuple[Operation, ...]:
    """The operations that are drawn: the culprits first, if there are too many."""
    operations = violation.witness.operations
    guilty = [it for it in operations if it.id in violation.culprits]
    others = [it for it in operations if it.id not in violation.culprits]
    kept = {it.id for it in (*guilty, *others)[:MOST_OPERATIONS]}
    return tuple(it for it in operations if it.id in kept)


def _steps(witness: History, operations: tuple[Operation, ...]) -> Mapping[float, int]:
    """Numbers the moments at which something began or ended."""
    moments = {it.invoked_ms for it in operations}
    moments |= {it.ended_ms for it in operations if it.ended_ms is not None}
    for claim in claims_of(witness):
        moments |= {claim.from_ms, claim.until_ms}
    # The first step is left for what was there before.
    return {at_ms: step for step, at_ms in enumerate(sorted(moments), start=1)}


def _asked(
    operations: tuple[Operation, ...], step_of: Mapping[float, int], guilty: Collection[str]
) -> Iterator[Bar | Point]:
    last = max(step_of.values(), default=0) + 1
    busy_until: dict[str, int] = {}
    for operation in operations:
        start = step_of[operation.invoked_ms]
        end = last if operation.ended_ms is None else step_of[operation.ended_ms]
        lane = operation.process
        while busy_until.get(lane, start) > start:
            # Two calls of one process at once stand in two lanes.
            lane += BESIDE
        busy_until[lane] = end
        kind = _KINDS[operation.outcome]
        if operation.action in ("read", "audit") and operation.outcome == "ok":
            kind = "seen"
        yield Bar(lane, start, end, kind, _words(operation))
        if operation.id in guilty:
            yield Point(lane, end, "contradiction")


def _words(operation: Operation) -> str:
    told = operation.result
    match operation.action:
        case "buy":
            answer = "got it" if operation.outcome == "ok" else operation.error or "no answer"
            return f"{_listed(operation.lines)}: {answer}"
        case "read":
            return f"{operation.args.get('place', 'stock')}: {told.get('left')} left"
        case "audit":
            rows = [_listed(_lines(row)) for row in told.get("orders", ())]
            sums = [f"{n} of product {p} left" for p, n in told.get("left", {}).items()]
            return "the ledger: " + ("; ".join([*rows, *sums]) or "no such order")
        case _:
            return operation.action


def _lines(row: Mapping[str, Any]) -> dict[int, int]:
    return {int(product): units for product, units in row["lines"].items()}


def _listed(lines: Mapping[int, int]) -> str:
    if len(lines) == 1:
        [units] = lines.values()
        return "1 unit" if units == 1 else f"{units} units"
    return ", ".join(f"{units} of product {product}" for product, units in sorted(lines.items()))


def _stock(
    witness: History, operations: tuple[Operation, ...], step_of: Mapping[float, int]
) -> Iterator[Point]:
    """The counter, as the answers tell it: what was there, less what was acknowledged."""
    for product, stock in witness.sale.stock.items():
        lane, left = f"product {product}", stock
        yield Point(lane, 0, "stock", f"{left} left")
        answered = [it for it in operations if it.outcome == "ok" and it.ended_ms is not None]
        for operation in sorted(answered, key=lambda it: it.ended_ms or 0.0):
            if operation.action == "buy":
                left -= operation.lines.get(product, 0)
            elif operation.action == "restock":
                left += int(operation.args["units"])
            else:
                continue
            at = step_of[operation.ended_ms or 0.0]
            yield Point(lane, at, "contradiction" if left < 0 else "stock", f"{left} left")


def _leases(
    witness: History, step_of: Mapping[float, int], guilty: Collection[str]
) -> Iterator[Bar | Point]:
    claims = claims_of(witness)
    # A fence may have sixteen digits; which is older is all that matters.
    rank = {fence: n for n, fence in enumerate(sorted({c.fence for c in claims}), start=1)}
    ended = {it.process: it.ended_ms for it in witness.operations if it.ended_ms is not None}
    for claim in claims:
        lane = f"{claim.process}{LEASE}"
        words = f"{_ORDINALS[min(rank[claim.fence], 3)]} fence" if claim.fence else "lease"
        start, end = step_of[claim.from_ms], step_of[claim.until_ms]
        yield Bar(lane, start, end, "lease", words)
        # A release that was asked for after the deadline: the holder did not know that it was over.
        if claim.records[-1].until_ms > claim.until_ms:
            yield Bar(lane, end, step_of.get(ended.get(claim.process, 0.0), end), "expired", "over")
        if claim.token in guilty:
            yield Point(lane, start, "contradiction")


def _faults(witness: History, step_of: Mapping[float, int]) -> Iterator[Band]:
    """Faults that lay over what is drawn."""
    if not step_of:
        return
    moments = sorted(step_of)
    for fault in witness.faults:
        ended_ms = moments[-1] if fault.ended_ms is None else fault.ended_ms
        if fault.began_ms <= moments[-1] and ended_ms >= moments[0]:
            inside = [step_of[at] for at in moments if fault.began_ms <= at <= ended_ms]
            first = min(inside, default=step_of[moments[0]])
            yield Band(
                first - 0.5, max(inside, default=first) + 0.5, f"{fault.name}: {fault.target}"
            )
