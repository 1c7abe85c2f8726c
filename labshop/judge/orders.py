"""The properties of orders: what a buyer was told, the ledger must bear out.

An audit is a reading of the whole ledger at one moment. An order that was acknowledged before
the audit began must be in it, whole and once, for the user who asked; one that was refused must
not be.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from labshop.judge.evidence import Evidence
from labshop.judge.flow import Movement
from labshop.judge.history import History, Operation, Sale, as_name
from labshop.judge.requests import Name, Request, Sighting
from labshop.judge.verdict import Violation

LIMIT, ALL_OR_NOTHING = "limit-per-user", "all-or-nothing"
DURABLE, IDEMPOTENCY = "durable-orders", "idempotency"
DEFINITE = "definite-answers"

OF_AN_EARLIER_ORDER = frozenset({"AlreadyBooked", "KeyReused", "InFlight"})
"""Refusals that speak of an order that stands, or may come to stand, under the same key."""


def limit_per_user(evidence: Evidence) -> Iterator[Violation]:
    """At no moment does a user hold more units than one may buy."""
    limit = evidence.history.sale.limit_per_user
    if limit is None:
        return
    by_buyer: dict[str, list[Movement]] = defaultdict(list)
    for moves in evidence.movements.values():
        for move in moves:
            if move.buyer is not None:
                by_buyer[move.buyer].append(move)
    for buyer, moves in by_buyer.items():
        taken = sorted((m for m in moves if m.units < 0 and m.certain), key=lambda m: m.by_ms)
        for number, last in enumerate(taken, start=1):
            back = sum(m.units for m in moves if m.units > 0 and m.from_ms <= last.by_ms)
            units = -sum(move.units for move in taken[:number]) - back
            if units > limit:
                yield _too_many(evidence, buyer, units, taken[:number])
                break


def _too_many(evidence: Evidence, buyer: str, units: int, taken: list[Movement]) -> Violation:
    """The purchase that went beyond the limit, and the one before; what came earlier is folded."""
    limit = evidence.history.sale.limit_per_user or 0
    kept = taken[-2:]
    folded = units + sum(move.units for move in kept)
    # Units that came back in between may make up for both; then less than nothing is folded.
    sale = Sale(evidence.stock, limit - folded)
    who = buyer if buyer.startswith("process ") else f"user {buyer}"
    reason = f"{who} has bought {units} units, and one user may buy {limit}"
    operations = _in_order(o for move in kept for o in move.operations)
    culprits = tuple(dict.fromkeys(move.operations[-1].id for move in kept))
    return Violation(LIMIT, reason, History(sale, operations), culprits)


def all_or_nothing(evidence: Evidence) -> Iterator[Violation]:
    """An order stands whole, or not at all; and one that was refused does not stand."""
    for request in evidence.requests:
        for seen in evidence.sightings(request.names):
            reason = _contradiction(request, seen)
            if reason is not None:
                listed = seen.alone()
                proof = _what_was_asked(request, seen)[-1]
                witness = History(_sale(evidence), _in_order((proof, listed)))
                culprits = (proof.id, listed.id)
                yield Violation(ALL_OR_NOTHING, f"{proof.process}: {reason}", witness, culprits)
                break


def _contradiction(request: Request, seen: Sighting) -> str | None:
    asked = [a.lines for a in _what_was_asked(request, seen) if a.outcome != "fail"]
    if not asked:
        if any(attempt.error in OF_AN_EARLIER_ORDER for attempt in request.attempts):
            return None
        told = request.attempts[-1].error
        return f"it was refused ({told}), and its order stands in the ledger"
    if seen.is_cancelled or seen.lines in asked:
        return None
    return f"{_listed(asked[-1])} was ordered, and {_listed(seen.lines)} is booked"


def _what_was_asked(request: Request, seen: Sighting) -> list[Operation]:
    """The attempts that may have made an order; where none may have, all of them."""
    named = [attempt for attempt in request.attempts if attempt.order_id == seen.order]
    attempts = named or list(request.attempts)
    return [attempt for attempt in attempts if attempt.outcome != "fail"] or attempts


def durable_orders(evidence: Evidence) -> Iterator[Violation]:
    """Each acknowledged order is in every audit that began after it.

    An order that somebody asked to cancel may be missing: not every ledger keeps those.
    """
    tables = [(audit, _names_in(audit)) for audit in evidence.audits if "orders" in audit.result]
    for request in evidence.requests:
        for order, answer in request.answers.items():
            for audit, names in tables:
                if audit.invoked_ms <= answer.latest_ms or _is_in(names, request, order):
                    continue
                if evidence.may_be_cancelled(order, audit.latest_ms):
                    continue
                called = f"order {order}" if order else "an order"
                reason = f"{answer.process} holds a receipt of {called}; the ledger does not"
                empty = replace(audit, args={}, result={"orders": []})
                witness = History(_sale(evidence), (answer, empty))
                yield Violation(DURABLE, reason, witness, (answer.id, audit.id))
                break


def _names_in(audit: Operation) -> tuple[frozenset[Name], bool]:
    """The names of all orders in an audit, and whether it lists their users and keys."""
    rows = audit.result["orders"]
    names = frozenset(name for row in rows for name in Sighting(audit, row).names)
    return names, all("key" in row and "user" in row for row in rows)


def _is_in(listed: tuple[frozenset[Name], bool], request: Request, order: str) -> bool:
    """Whether an order is in an audit, as far as the audit could show it."""
    names, lists_keys = listed
    if order:
        return ("order", order) in names
    keyed = request.key is not None and request.user is not None
    return not (keyed and lists_keys) or not request.names.isdisjoint(names)


def idempotency(evidence: Evidence) -> Iterator[Violation]:
    """One key of one user is one order, and nobody else's."""
    holders: dict[str, tuple[Request, Operation]] = {}
    for request in evidence.requests:
        answers = request.answers
        if len(answers) > 1:
            reason = f"{request.attempts[0].process} used one key, and got {len(answers)} orders"
            yield _among(evidence, reason, tuple(answers.values())[:2])
        for order, answer in answers.items():
            owner = as_name(answer.result.get("user"))
            if request.user is not None and owner not in {None, request.user}:
                reason = (
                    f"{answer.process} is user {request.user} and got the order of user {owner}"
                )
                yield _among(evidence, reason, (answer,))
            holder, receipt = holders.setdefault(order, (request, answer))
            if order and holder is not request:
                reason = f"{receipt.process} and {answer.process} both hold order {order}"
                yield _among(evidence, reason, (receipt, answer))
    yield from _booked_for_another(evidence)
    yield from _booked_twice(evidence)


def definite_answers(evidence: Evidence) -> Iterator[Violation]:
    """Where no fault disturbs, everybody gets an answer that says yes or no.

    Whoever was still waiting when the recording ended is not counted: the answer may have come.
    """
    for request in evidence.requests:
        last = request.attempts[-1]
        if request.answers or last.outcome != "unknown" or math.isinf(request.ended_ms):
            continue
        if not evidence.is_disturbed(last):
            reason = f"{last.process} got no definite answer ({last.error or 'none at all'})"
            witness = History(_sale(evidence), (last,))
            yield Violation(DEFINITE, reason, witness, (last.id,))


def _booked_for_another(evidence: Evidence) -> Iterator[Violation]:
    for request in evidence.requests:
        for order, answer in request.answers.items():
            if not order or request.user is None:
                continue
            for seen in evidence.sightings(frozenset({("order", order)})):
                owner = as_name(seen.row.get("user"))
                if owner not in {None, request.user}:
                    reason = (
                        f"{answer.process} is user {request.user} and holds order {order}, "
                        f"which the ledger has for user {owner}"
                    )
                    yield _among(evidence, reason, (answer, seen.alone()))
                    break


def _booked_twice(evidence: Evidence) -> Iterator[Violation]:
    for audit in evidence.audits:
        by_name: dict[Name, list[Mapping[str, Any]]] = defaultdict(list)
        for row in audit.result.get("orders") or ():
            for name in Sighting(audit, row).names:
                by_name[name].append(row)
        for name, rows in by_name.items():
            if len(rows) > 1:
                reason = f"order {name[-1]} stands {len(rows)} times in the ledger"
                if name[0] == "key":
                    reason = f"user {name[1]} has {len(rows)} orders under the one key {name[2]}"
                args = {field: value for field, value in audit.args.items() if field == "place"}
                told = {"orders": [dict(row) for row in rows[:2]]}
                yield _among(evidence, reason, (replace(audit, args=args, result=told),))
                break


def _among(evidence: Evidence, reason: str, operations: tuple[Operation, ...]) -> Violation:
    culprits = tuple(operation.id for operation in operations)
    witness = History(_sale(evidence), _in_order(operations))
    return Violation(IDEMPOTENCY, reason, witness, culprits)


def _sale(evidence: Evidence) -> Sale:
    """The sale without its stock: what a witness says of orders, it does not say of units."""
    return Sale({}, evidence.history.sale.limit_per_user)


def _in_order(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """Each operation once, in the order of their beginning."""
    once = {operation.id: operation for operation in operations}
    return tuple(sorted(once.values(), key=lambda operation: operation.invoked_ms))


def _listed(lines: Mapping[int, int]) -> str:
    units = (f"{units} of product {product}" for product, units in sorted(lines.items()))
    return ", ".join(units) or "nothing"
