"""The properties of the stock: nothing oversold, nothing undersold, no unit lost.

Each check compares what was seen with what *any* order of effects could explain: an operation
may have taken effect at any moment between its invocation and its answer. So an accusation holds
whatever the interleaving was, and concurrency alone never causes one.

A witness is made small by accounting, not by luck: movements that are not needed for the
contradiction are folded into the stock with which the witness begins.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from labshop.judge.evidence import Evidence
from labshop.judge.flow import Movement
from labshop.judge.history import History, Operation, Sale
from labshop.judge.readings import Reading
from labshop.judge.verdict import Violation

OVERSELL, UNDERSELL, CONSERVATION = "no-oversell", "no-undersell", "conservation"

OWN_REASONS = frozenset(
    {
        "BadOrder",
        "NoSuchProduct",
        "LimitReached",
        "SaleClosed",
        "KeyReused",
        "AlreadyBooked",
        "InFlight",
        "RateLimited",
        "Unauthorized",
        "PaymentRefused",
    }
)
"""Refusals for which the buyer is the reason, and not the stock; every other is the shop's."""


def no_oversell(evidence: Evidence) -> Iterator[Violation]:
    """At no moment have more units been sold than there were."""
    for product in evidence.stock:
        yield from _oversold_by_answers(evidence, product) or _oversold_by_audit(evidence, product)


def no_undersell(evidence: Evidence) -> Iterator[Violation]:
    """Nobody was sent away for want of a unit while one was left."""
    yield from _refused_wrongly(evidence)
    yield from _left_over(evidence)


def conservation(evidence: Evidence) -> Iterator[Violation]:
    """At every reading, what was there is what is left, held or sold."""
    for reading in evidence.readings:
        found = (
            _sum_is_wrong(evidence, reading)
            or _unsold_is_wrong(evidence, reading)
            or _sold_is_wrong(evidence, reading)
        )
        if found is not None:
            yield found


def _oversold_by_answers(evidence: Evidence, product: int) -> list[Violation]:
    taken = [m for m in evidence.movements[product] if m.units < 0 and m.certain]
    taken.sort(key=lambda movement: movement.by_ms)
    sold = 0
    for number, last in enumerate(taken):
        sold -= last.units
        there = evidence.stock[product] + evidence.flows[product].put_by(last.by_ms)
        if sold > there:
            witness, culprits = _last_unit(product, there, taken[: number + 1])
            reason = f"{sold} units of product {product} were sold, and there were {there}"
            return [Violation(OVERSELL, reason, witness, culprits)]
    return []


def _last_unit(product: int, there: int, taken: list[Movement]) -> tuple[History, tuple[str, ...]]:
    """The sale that went beyond the stock and the one before it; the earlier ones are folded."""
    before = there + sum(move.units for move in taken[:-2])
    kept = taken[-2:]
    operations = [operation for move in kept for operation in move.operations]
    witness = History(Sale({product: before}), _in_order(operations))
    return witness, tuple(move.operations[-1].id for move in kept)


def _oversold_by_audit(evidence: Evidence, product: int) -> list[Violation]:
    for reading in evidence.readings:
        if reading.product == product:
            # Cancelled orders are not counted as sold, so only a restock could explain more.
            _, there = _ever_there(evidence, reading)
            sold = reading.sold or 0
            if sold > there or (reading.unsold or 0) < 0:
                place = f" at the {reading.place}" if reading.place else ""
                reason = (
                    f"{sold} units of product {product} are sold{place}, and there were {there}"
                )
                if sold <= there:
                    reason = f"{reading.unsold} units of product {product} are left{place}"
                return [_by_reading(OVERSELL, reason, reading, there)]
    return []


def _refused_wrongly(evidence: Evidence) -> Iterator[Violation]:
    """Whoever says *sold out* while units are only held should have said so: they may come back."""
    for refusal in evidence.history.of("buy"):
        if refusal.outcome != "fail" or refusal.error != "SoldOut":
            continue
        blamed = _blamed_lines(evidence, refusal)
        left = {
            product: evidence.least_available(product, refusal.invoked_ms, refusal.latest_ms)
            for product in blamed
        }
        if blamed and all(left[product] >= units for product, units in blamed.items()):
            reason = (
                f"{refusal.process} wanted {_listed(blamed)} and was told that it is "
                f"sold out, while {_listed(left)} were left"
            )
            witness = History(Sale(left), (refusal,))
            yield Violation(UNDERSELL, reason, witness, (refusal.id,))


def _blamed_lines(evidence: Evidence, refusal: Operation) -> dict[int, int]:
    """The line that was said to be sold out; where none was named, it is one of them all."""
    lines, named = refusal.lines, refusal.result.get("product")
    if named is not None:
        lines = {product: units for product, units in lines.items() if product == int(named)}
    return lines if all(product in evidence.stock for product in lines) else {}


def _left_over(evidence: Evidence) -> Iterator[Violation]:
    """Units were there all the while, and a buyer who wanted them went home without an order.

    They must have been there when the buyer asked for the last time, and still at the end: what
    came back afterwards, this buyer could not have had.
    """
    end_ms = max((o.ended_ms or o.invoked_ms for o in evidence.history.operations), default=0.0)
    for request in evidence.requests:
        last = request.attempts[-1]
        if request.answers or last.error in OWN_REASONS or last.error == "SoldOut":
            continue
        if math.isinf(request.ended_ms) or evidence.sightings(request.names):
            continue
        lines = {p: units for p, units in last.lines.items() if p in evidence.stock}
        left = {
            product: evidence.least_available(product, last.invoked_ms, end_ms)
            - _held_by_others(evidence, last, product)
            for product in lines
        }
        if not lines or any(left[product] < units for product, units in lines.items()):
            continue
        if not evidence.is_disturbed(last):
            reason = (
                f"{last.process} wanted {_listed(lines)} and was told {last.error or 'nothing'}; "
                f"at the end {_listed(left)} were left"
            )
            witness = History(Sale(left), (last,))
            yield Violation(UNDERSELL, reason, witness, (last.id,))


def _held_by_others(evidence: Evidence, refusal: Operation, product: int) -> int:
    """Units that others may have held for a while, and given back, when *held* was the answer."""
    if refusal.error != "StockHeld":
        return 0
    return sum(
        buy.lines.get(product, 0)
        for buy in evidence.history.of("buy")
        if buy.outcome == "fail"
        and buy is not refusal
        and buy.error not in {"SoldOut", "StockHeld"}
        and buy.invoked_ms <= refusal.latest_ms
        and buy.latest_ms >= refusal.invoked_ms
    )


def _sum_is_wrong(evidence: Evidence, reading: Reading) -> Violation | None:
    if reading.unsold is None or reading.sold is None:
        return None
    least, most = _ever_there(evidence, reading)
    if least <= reading.sold + reading.unsold <= most:
        return None
    could = f"{most}" if least == most else f"anything from {least} to {most}"
    reason = (
        f"{reading.sold} sold and {reading.unsold} left of product {reading.product} is not {could}"
    )
    there = most if reading.sold + reading.unsold > most else least
    return _by_reading(CONSERVATION, reason, reading, there)


def _unsold_is_wrong(evidence: Evidence, reading: Reading) -> Violation | None:
    if reading.unsold is None:
        return None
    begin_ms, end_ms = reading.operation.invoked_ms, reading.operation.latest_ms
    least = max(evidence.least_available(reading.product, begin_ms, end_ms), 0)
    most = evidence.most_available(reading.product, begin_ms, end_ms)
    if least <= reading.unsold <= most:
        return None
    there = most if reading.unsold > most else least
    reason = _told(reading, f"{reading.unsold} units of product {reading.product} were unsold")
    sale = Sale({reading.product: there})
    only = replace(reading, sold=None)
    return _by_reading(CONSERVATION, f"{reason}; {_range(least, most)} could be", only, there, sale)


def _sold_is_wrong(evidence: Evidence, reading: Reading) -> Violation | None:
    if reading.sold is None:
        return None
    begin_ms, end_ms = reading.operation.invoked_ms, reading.operation.latest_ms
    before = evidence.history.sale.sold.get(reading.product, 0)
    least = before - evidence.ordered[reading.product].most(begin_ms, end_ms)
    most = before - evidence.ordered[reading.product].least(begin_ms, end_ms)
    if least <= reading.sold <= most:
        return None
    there = most if reading.sold > most else least
    reason = _told(reading, f"{reading.sold} units of product {reading.product} were sold")
    sale = Sale({reading.product: 0}, sold={reading.product: there})
    only = replace(reading, unsold=None)
    return _by_reading(CONSERVATION, f"{reason}; {_range(least, most)} could be", only, there, sale)


def _ever_there(evidence: Evidence, reading: Reading) -> tuple[int, int]:
    """The least and the most that can have been put on sale up to a reading."""
    product, sale = reading.product, evidence.history.sale
    begin_ms, end_ms = reading.operation.invoked_ms, reading.operation.latest_ms
    there = sale.stock[product] + sale.sold.get(product, 0)
    flow = evidence.restocked[product]
    return there + flow.least(begin_ms, end_ms), there + flow.most(begin_ms, end_ms)


def _by_reading(
    name: str, reason: str, reading: Reading, there: int, sale: Sale | None = None
) -> Violation:
    """The reading alone, without the orders of which it is the sum."""
    seen, product = reading.operation, str(reading.product)
    args: dict[str, Any] = {
        "product": reading.product,
        **({"place": reading.place} if reading.place else {}),
    }
    told: dict[str, Any] = {"left": reading.unsold, "sold": reading.sold}
    told = {field: units for field, units in told.items() if units is not None}
    if seen.action == "audit":
        args = {"place": reading.place}
        told = {field: {product: units} for field, units in told.items()}
    short = replace(seen, args=args, result=told)
    sale = sale or Sale({reading.product: there})
    return Violation(name, reason, History(sale, (short,)), (seen.id,))


def _told(reading: Reading, what: str) -> str:
    place = f" at the {reading.place}" if reading.place else ""
    return f"{reading.operation.process} saw that {what}{place}"


def _range(least: int, most: int) -> str:
    return f"exactly {most}" if least == most else f"{least} to {most}"


def _in_order(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """Each operation once, in the order of their beginning."""
    once = {operation.id: operation for operation in operations}
    return tuple(sorted(once.values(), key=lambda operation: operation.invoked_ms))


def _listed(lines: dict[int, int]) -> str:
    return ", ".join(f"{units} of product {product}" for product, units in sorted(lines.items()))
