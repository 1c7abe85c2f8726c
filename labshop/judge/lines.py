"""A history as text: one JSON object a line, which a program in any language can write.

    {"type": "sale", "stock": {"1": 100}, "limit_per_user": 10}
    {"type": "invoke", "at_ms": 5.1, "process": "ann", "op": "1", "action": "buy",
     "args": {"user": 7, "lines": {"1": 2}, "key": "k-1"}}
    {"type": "ok", "at_ms": 9.8, "process": "ann", "op": "1", "result": {"order": "o-1"}}
    {"type": "lock", "at_ms": 6.0, "process": "ann", "event": "acquired", "key": "product:1",
     "token": "f3", "fence": 12, "until_ms": 3006.0}
    {"type": "fault", "at_ms": 7.0, "phase": "begin", "id": "1", "fault": "frozen",
     "target": "primary"}
    {"type": "breaker", "at_ms": 8.0, "process": "ann", "name": "ledger", "state": "open"}

The texts of several processes of one machine may follow each other in any order, if no two use
the same name for an operation or a fault. ``docs/history.md`` describes every field.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from labshop.errors import SetupError
from labshop.judge.history import (
    OUTCOMES,
    BreakerRecord,
    FaultRecord,
    History,
    LockRecord,
    Operation,
    Sale,
    by_product,
)
from labshop.judge.shapes import check_arguments, check_result


class BadHistory(SetupError):
    """A line that breaks the format; the sentence names it."""


def write_history(history: History) -> Iterator[str]:
    """The history as JSON lines without line ends, in the order of time."""
    yield sale_line(history.sale)
    timed: list[tuple[float, str]] = []
    for operation in history.operations:
        timed.append((operation.invoked_ms, invocation_line(operation)))
        if operation.ended_ms is not None:
            timed.append((operation.ended_ms, answer_line(operation)))
    for number, fault in enumerate(history.faults, start=1):
        timed.append((fault.began_ms, fault_line(fault, str(number))))
        if fault.ended_ms is not None:
            timed.append((fault.ended_ms, fault_line(fault, str(number), ended=True)))
    timed += [(lock.at_ms, lock_line(lock)) for lock in history.locks]
    timed += [(change.at_ms, breaker_line(change)) for change in history.breakers]
    yield from (line for _, line in sorted(timed, key=lambda pair: pair[0]))


def sale_line(sale: Sale) -> str:
    """What was on sale."""
    stock = {str(product): units for product, units in sale.stock.items()}
    sold = {str(product): units for product, units in sale.sold.items()} or None
    return _line(type="sale", stock=stock, limit_per_user=sale.limit_per_user, sold=sold)


def invocation_line(operation: Operation) -> str:
    """An operation, when it is invoked."""
    who: dict[str, Any] = {"process": operation.process, "op": operation.id}
    asked = {"action": operation.action, "args": dict(operation.args)}
    return _line(type="invoke", at_ms=operation.invoked_ms, **who, **asked)


def answer_line(operation: Operation) -> str:
    """An operation, when it has ended."""
    who: dict[str, Any] = {"process": operation.process, "op": operation.id}
    told = dict(operation.result)
    return _line(type=operation.outcome, at_ms=operation.ended_ms, **who, result=told)


def lock_line(lock: LockRecord) -> str:
    """An event of a lock."""
    what = {"event": lock.event, "key": lock.key, "token": lock.token, "fence": lock.fence}
    times = {"until_ms": lock.until_ms, "asked_ms": lock.asked_ms, "op": lock.operation}
    return _line(type="lock", at_ms=lock.at_ms, process=lock.process, **what, **times)


def fault_line(fault: FaultRecord, number: str, *, ended: bool = False) -> str:
    """The beginning or the end of a fault, which `number` tells from all others."""
    at_ms, phase = (fault.ended_ms, "end") if ended else (fault.began_ms, "begin")
    what = {"id": number, "fault": fault.name, "target": fault.target}
    return _line(type="fault", at_ms=at_ms, phase=phase, **what)


def breaker_line(change: BreakerRecord) -> str:
    """A change of a circuit breaker."""
    what = {"process": change.process, "name": change.name, "state": change.state}
    return _line(type="breaker", at_ms=change.at_ms, **what)


def read_history(lines: Iterable[str]) -> History:
    """Read JSON lines, of one process or of several whose texts follow each other.

    Raises:
        BadHistory: a line is not of this format.
    """
    reader = _Reader()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            reader.take(json.loads(line))
        except KeyError as missing:
            raise BadHistory(f"Line {number} of the history has no {missing}.") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise BadHistory(f"Line {number} of the history is not readable: {error}.") from None
    return reader.history()


def _line(**fields: Any) -> str:
    return json.dumps({n: value for n, value in fields.items() if value is not None}, default=str)


class _Reader:
    def __init__(self) -> None:
        self._sale = Sale()
        self._operations: dict[str, Operation] = {}
        self._locks: list[LockRecord] = []
        self._faults: dict[str, FaultRecord] = {}
        self._breakers: list[BreakerRecord] = []

    def take(self, line: Mapping[str, Any]) -> None:
        kind = line["type"]
        if kind == "sale":
            self._sell(line)
        elif kind == "invoke":
            self._invoke(line)
        elif kind in OUTCOMES:
            self._answer(line)
        elif kind == "lock":
            self._locks.append(_lock_record(line))
        elif kind == "fault":
            self._fault(line)
        elif kind == "breaker":
            at_ms, process = float(line["at_ms"]), str(line["process"])
            self._breakers.append(BreakerRecord(at_ms, process, line["name"], line["state"]))
        else:
            raise ValueError(f"there is no type {kind!r}")

    def history(self) -> History:
        operations = sorted(self._operations.values(), key=lambda operation: operation.invoked_ms)
        locks = sorted(self._locks, key=lambda lock: lock.at_ms)
        breakers = sorted(self._breakers, key=lambda change: change.at_ms)
        faults = tuple(self._faults.values())
        return History(self._sale, tuple(operations), tuple(locks), faults, tuple(breakers))

    def _sell(self, line: Mapping[str, Any]) -> None:
        """Several texts that follow each other may each say it, and must say the same."""
        limit = line.get("limit_per_user")
        sale = Sale(by_product(line["stock"]), limit, by_product(line.get("sold")))
        if sale != Sale() and self._sale not in (sale, Sale()):
            raise ValueError("it contradicts an earlier line about the sale")
        self._sale = sale if sale != Sale() else self._sale

    def _invoke(self, line: Mapping[str, Any]) -> None:
        process, number = str(line["process"]), str(line["op"])
        check_arguments(line["action"], line.get("args", {}))
        if number in self._operations:
            raise ValueError(f"operation {number} is invoked twice")
        self._operations[number] = Operation(
            number, process, line["action"], dict(line.get("args", {})), float(line["at_ms"])
        )

    def _answer(self, line: Mapping[str, Any]) -> None:
        number = str(line["op"])
        begun = self._operations.get(number)
        if begun is None or begun.ended_ms is not None:
            raise ValueError(f"operation {number} ends and is not under way")
        at_ms, told = float(line["at_ms"]), dict(line.get("result", {}))
        if line["type"] == "ok":
            check_result(begun.action, told)
        if at_ms < begun.invoked_ms:
            raise ValueError(f"operation {number} ends before it begins")
        ended = replace(begun, ended_ms=at_ms, outcome=line["type"], result=told)
        self._operations[number] = ended

    def _fault(self, line: Mapping[str, Any]) -> None:
        number, at_ms = str(line["id"]), float(line["at_ms"])
        if line["phase"] == "begin":
            self._faults[number] = FaultRecord(line["fault"], line.get("target", ""), at_ms)
        elif number in self._faults:
            self._faults[number] = replace(self._faults[number], ended_ms=at_ms)
        else:
            raise ValueError(f"fault {number} ends and has not begun")


def _lock_record(line: Mapping[str, Any]) -> LockRecord:
    asked_ms, operation = line.get("asked_ms"), line.get("op")
    return LockRecord(
        at_ms=float(line["at_ms"]),
        process=str(line["process"]),
        event=line["event"],
        key=line["key"],
        token=line["token"],
        fence=int(line.get("fence", 0)),
        until_ms=float(line.get("until_ms", 0.0)),
        asked_ms=None if asked_ms is None else float(asked_ms),
        operation=None if operation is None else str(operation),
    )
