"""Linearizability of a stock counter: one order of effects that explains every answer.

The problem: interval checks weigh each answer alone; two reads may each be possible and still
contradict one another. The idea (M. Herlihy, J. Wing, "Linearizability", 1990): a history is right
if each operation can be given one moment between its invocation and its answer, such that the
counter, stepping through these moments, would have given the same answers.

Products are checked one by one, for linearizability is a local property. The search is in
`labshop.judge.search`; it may be undecided, and then nobody is accused.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

from labshop.judge.evidence import Evidence
from labshop.judge.flow import Movement
from labshop.judge.history import History, Operation, Sale
from labshop.judge.search import Step, first_unexplained
from labshop.judge.shrink import READABLE, fails, fewest, shortest, summed
from labshop.judge.verdict import Violation

LINEARIZABLE = "linearizable-stock"
MOST_VALUES = 40
"""Numbers of units that are tried to say what could have been seen instead."""


def linearizable_stock(evidence: Evidence) -> Iterator[Violation]:
    """Some order of effects explains every answer about a product's stock.

    Reads of a named place (a gate, a ledger, a replica) are held against the movements alone;
    reads without one, and refusals, are of the shop's own counter.

    Raises:
        Undecided: there were too many orders to try.
    """
    for product, stock in evidence.stock.items():
        moves = [_movement(move) for move in evidence.movements[product]]
        for observations in _observations(evidence, product).values():
            steps = sorted([*moves, *observations], key=lambda step: step.from_ms)
            stuck = first_unexplained(steps, stock)
            if stuck is not None:
                yield _violation(product, steps, stock, stuck)


def _movement(move: Movement) -> Step:
    least = -move.units if move.units < 0 else 0
    by_ms = move.by_ms if move.certain else math.inf
    return Step(move.from_ms, by_ms, move.units, least, math.inf, move.operations)


def _observations(evidence: Evidence, product: int) -> dict[str | None, list[Step]]:
    """The answers that tell something about a counter, by its place."""
    found: dict[str | None, list[Step]] = {None: []}
    for reading in evidence.readings:
        if reading.product == product and reading.unsold is not None:
            seen = _look(reading.operation, reading.unsold, reading.unsold)
            found.setdefault(reading.place, []).append(seen)
    for refusal in evidence.history.of("buy"):
        if refusal.outcome == "fail" and refusal.error == "SoldOut":
            named = refusal.result.get("product", product if len(refusal.lines) == 1 else None)
            if named is not None and int(named) == product and product in refusal.lines:
                seen = _look(refusal, -math.inf, refusal.lines[product] - 1)
                found.setdefault(None, []).append(seen)
    return found


def _look(operation: Operation, least: float, most: float) -> Step:
    return Step(operation.invoked_ms, operation.latest_ms, 0, least, most, (operation,))


def _violation(product: int, steps: list[Step], stock: int, stuck: Step) -> Violation:
    stretch, left = shortest(steps, stock, stuck)
    kept, begin = fewest(stretch, left, stuck)
    if len(kept) > READABLE:
        kept = summed(kept, begin, stuck, product)
    operations = {operation.id: operation for step in kept for operation in step.operations}
    in_order = tuple(sorted(operations.values(), key=lambda operation: operation.invoked_ms))
    reason = f"{_told(product, stuck)}; {_could_be(stretch, left, stuck)}"
    culprit = stuck.operations[-1]
    witness = History(Sale({product: begin}), in_order)
    return Violation(LINEARIZABLE, reason, witness, (culprit.id,))


def _told(product: int, stuck: Step) -> str:
    culprit = stuck.operations[-1]
    if stuck.delta < 0:
        return f"{culprit.process} got {-stuck.delta} of product {product}"
    if culprit.action == "buy":
        wanted = culprit.lines[product]
        return f"{culprit.process} wanted {wanted} of product {product} and was told sold out"
    place = f" at the {culprit.args['place']}" if culprit.args.get("place") else ""
    return f"{culprit.process} saw {stuck.least:.0f} units of product {product} unsold{place}"


def _could_be(steps: list[Step], stock: int, stuck: Step) -> str:
    """What the counter can have been at that time, for somebody who is to understand."""
    low = stock + sum(step.delta for step in steps if step.delta < 0)
    high = stock + sum(step.delta for step in steps if step.delta > 0)
    candidates = range(max(low, 0), high + 1) if not stuck.delta else range(0)
    possible = [
        units
        for units in candidates[:MOST_VALUES]
        if not fails(_told_instead(steps, stuck, units), stock)
    ]
    if not possible:
        return "no order of effects explains that, together with what was seen before"
    listed = ", ".join(map(str, possible[:-1]))
    numbers = f"{listed} or {possible[-1]}" if listed else f"exactly {possible[-1]}"
    return f"in every order of effects that explains what was seen before, {numbers} were left"


def _told_instead(steps: list[Step], stuck: Step, units: int) -> list[Step]:
    """The same history, if another number had been seen."""
    return [replace(s, least=units, most=units) if s is stuck else s for s in steps]
