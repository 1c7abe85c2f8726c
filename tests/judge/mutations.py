"""One planted violation each, in a history that was sound.

A mutation takes a history and a source of chance, and changes a single fact in the middle of it.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from labshop.judge.history import History, LockRecord, Operation

Mutation = Callable[[History, Random], History]


def shift_a_read(history: History, chance: Random) -> History:
    """A read tells many more units than there can be."""
    read = _one(history, chance, lambda o: o.action == "read" and o.result.get("left") is not None)
    return _with(history, read, result={**read.result, "left": read.result["left"] + 60})


def shift_the_units_sold(history: History, chance: Random) -> History:
    """A read tells fewer units sold than were acknowledged."""
    read = _one(history, chance, lambda o: o.action == "read" and (o.result.get("sold") or 0) > 60)
    return _with(history, read, result={"sold": read.result["sold"] - 60})


def drop_a_unit(history: History, chance: Random) -> History:
    """A restock is acknowledged and never reaches the shelf."""
    restock = _one(history, chance, lambda o: o.action == "restock" and o.outcome == "ok")
    return _with(history, restock, args={**restock.args, "units": restock.args["units"] + 60})


def refuse_wrongly(history: History, chance: Random) -> History:
    """A buyer who got an order is told that it was sold out, and the units are elsewhere."""
    buy = _one(history, chance, lambda o: o.action == "buy" and o.outcome == "ok" and _plenty(o))
    told = {"error": "SoldOut", "product": int(next(iter(buy.args["lines"])))}
    extra = replace(buy, id="planted", args={**buy.args, "key": None, "order": None})
    extra = replace(extra, outcome="fail", result=told)
    return _sorted(history, [*history.operations, extra])


def send_away(history: History, chance: Random) -> History:
    """A buyer is told that the lock is busy, and goes home while units are left to the end."""
    buy = _one(history, chance, lambda o: o.action == "buy" and o.outcome == "ok" and _plenty(o))
    args = {**buy.args, "key": None, "order": None}
    told = {"error": "LockTimeout"}
    extra = replace(buy, id="planted", args=args, outcome="fail", result=told)
    return _sorted(history, [*history.operations, extra])


def forget_an_order(history: History, chance: Random) -> History:
    """The ledger has lost an order that was acknowledged and not cancelled."""
    audit = history.operations[-1]
    named = {o.order_id for o in history.operations if o.action == "buy" and o.outcome == "ok"}
    rows = audit.result["orders"]
    standing = [r for r in rows if r["order"] in named and r["status"] == "confirmed"]
    lost = chance.choice([r for r in standing if not _cancelled(history, r["order"])])
    return _with(
        history, audit, result={**audit.result, "orders": [r for r in rows if r is not lost]}
    )


def book_twice(history: History, chance: Random) -> History:
    """The ledger has two orders under one key."""
    audit = history.operations[-1]
    rows = audit.result["orders"]
    twice = chance.choice([row for row in rows if row["key"] is not None])
    more = [*rows, {**twice, "order": "a-second-one"}]
    return _with(history, audit, result={**audit.result, "orders": more})


def split_a_bundle(history: History, chance: Random) -> History:
    """One line of an order of several is not booked."""
    audit = history.operations[-1]
    rows = list(audit.result["orders"])
    whole = [row for row in rows if len(row["lines"]) > 1 and row["status"] == "confirmed"]
    torn = chance.choice(whole)
    rows[rows.index(torn)] = {**torn, "lines": dict(list(torn["lines"].items())[:1])}
    return _with(history, audit, result={**audit.result, "orders": rows})


def book_the_refused(history: History, chance: Random) -> History:
    """An order that was refused stands in the ledger."""
    rows = history.operations[-1].result["orders"]
    booked = {row["order"] for row in rows if row["status"] == "confirmed"}
    buy = _one(history, chance, lambda o: o.args.get("order") in booked)
    same = [o for o in history.operations if o.args.get("order") == buy.args["order"]]
    for attempt in same:
        if attempt.action == "buy":
            history = _with(history, attempt, outcome="fail", result={"error": "Unavailable"})
    return history


def give_two_orders_for_a_key(history: History, chance: Random) -> History:
    """A retry under the same key gets an order of its own."""
    buy = _one(
        history,
        chance,
        lambda o: (
            o.action == "buy" and o.outcome == "ok" and bool(o.args.get("key") and o.order_id)
        ),
    )
    begun = (buy.ended_ms or 0.0) + 0.01
    again = replace(
        buy, id="planted", invoked_ms=begun, ended_ms=begun, result={"order": "another"}
    )
    return _sorted(history, [*history.operations, again])


def give_one_order_to_two(history: History, chance: Random) -> History:
    """Two buyers hold a receipt of the same order."""
    one = _one(history, chance, lambda o: _has_receipt(o) and "key" in o.args)
    other = _one(history, chance, lambda o: _has_receipt(o) and o.args["user"] != one.args["user"])
    return _with(history, one, result={"order": other.result["order"]})


def book_for_another(history: History, chance: Random) -> History:
    """An order stands in the ledger under the name of somebody else."""
    audit = history.operations[-1]
    named = {o.order_id for o in history.operations if o.action == "buy" and o.outcome == "ok"}
    rows = list(audit.result["orders"])
    stolen = chance.choice([row for row in rows if row["order"] in named])
    rows[rows.index(stolen)] = {**stolen, "user": "a thief"}
    return _with(history, audit, result={**audit.result, "orders": rows})


def swap_the_sums(history: History, chance: Random) -> History:
    """An audit has mixed up how many are left and how many are sold."""
    audit = history.operations[-1]
    left = {product: units + 1 for product, units in audit.result["left"].items()}
    return _with(history, audit, result={**audit.result, "left": left})


def lower_the_limit(history: History, chance: Random) -> History:
    """A user has bought more than one may."""
    return replace(history, sale=replace(history.sale, limit_per_user=30))


def overlap_leases(history: History, chance: Random) -> History:
    """A holder believes in its lease for longer than the lock does."""
    records = list(history.locks)
    granted = [n for n, r in enumerate(records[:-6]) if r.event == "acquired"]
    number = chance.choice(granted)
    record = records[number]
    records[number] = replace(record, until_ms=record.until_ms + 500)
    kept = [r for r in records if r.token != record.token or r.event == "acquired"]
    return replace(history, locks=tuple(kept))


def repeat_a_fence(history: History, chance: Random) -> History:
    """A counter of fences has lost its memory."""
    records = list(history.locks)
    granted = [n for n, r in enumerate(records) if r.event == "acquired"][10:]
    number = chance.choice(granted)
    earlier = records[granted[0] - 10].fence
    token = records[number].token
    changed: list[LockRecord] = [
        replace(r, fence=earlier) if r.token == token else r for r in records
    ]
    return replace(history, locks=tuple(changed))


def write_with_an_old_fence(history: History, chance: Random) -> History:
    """A holder that lost its lease writes after the next holder has written."""
    firsts: dict[str, Operation] = {}
    for buy in history.of("buy"):
        if buy.outcome == "ok" and "1" in buy.args["lines"] and buy.order_id:
            firsts.setdefault(buy.order_id, buy)
    written = {buy.id: number for number, buy in enumerate(firsts.values())}
    late = len(written) // 2
    operations = []
    for operation in history.operations:
        number = written.get(operation.id)
        if number is not None:
            fence = {"sequence": number + 1, "fence": 3 if number == late else 10 + number}
            operation = replace(operation, result={**operation.result, **fence})  # noqa: PLW2901
        operations.append(operation)
    return replace(history, operations=tuple(operations))


def _has_receipt(operation: Operation) -> bool:
    return operation.action == "buy" and operation.outcome == "ok" and "order" in operation.result


def _plenty(operation: Operation) -> bool:
    return "3" in operation.args["lines"] and len(operation.args["lines"]) == 1


def _cancelled(history: History, order: str) -> bool:
    return any(cancel.order_id == order for cancel in history.of("cancel"))


def _one(history: History, chance: Random, fits: Callable[[Operation], bool]) -> Operation:
    middle = history.operations[len(history) // 4 : -len(history) // 4]
    return chance.choice([operation for operation in middle if fits(operation)])


def _with(history: History, changed: Operation, **fields: Any) -> History:
    operations = [replace(o, **fields) if o is changed else o for o in history.operations]
    return replace(history, operations=tuple(operations))


def _sorted(history: History, operations: list[Operation]) -> History:
    operations.sort(key=lambda operation: operation.invoked_ms)
    return replace(history, operations=tuple(operations))
