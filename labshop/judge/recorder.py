"""Writes a history down while it happens.

The problem: whoever records must not disturb, and must not lose what a killed process had begun.
The idea: an operation is written when it is invoked, before anything is sent, and once more when
its answer came. What ends in any other way than by an answer is unknown. Every line goes to a
sink at once, if there is one, so a file of it outlives a kill -9.

Operations are told apart by a context variable, so a lock's event belongs to the buyer who
asked for the lock, however many buyers one process serves.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from itertools import count
from typing import Any

from labshop.clock import Clock, SystemClock
from labshop.judge.history import (
    BreakerRecord,
    FaultRecord,
    History,
    LockRecord,
    Operation,
    OperationOutcome,
    Sale,
)
from labshop.judge.lines import (
    answer_line,
    breaker_line,
    fault_line,
    invocation_line,
    lock_line,
    sale_line,
)
from labshop.locks.base import LockEvent

_under_way: ContextVar["Call | None"] = ContextVar("operation under way", default=None)


class Call:
    """An operation under way; whoever made it says how it ended."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation

    def ok(self, **result: Any) -> None:
        """It took effect, and this is its answer."""
        self._end("ok", result)

    def fail(self, error: str, **details: Any) -> None:
        """It certainly had no effect."""
        self._end("fail", {"error": error, **details})

    def unknown(self, error: str) -> None:
        """Nobody knows whether it had an effect."""
        self._end("unknown", {"error": error})

    def _end(self, outcome: OperationOutcome, result: Mapping[str, Any]) -> None:
        self.operation = replace(self.operation, outcome=outcome, result=result)


class Recorder:
    """Records one run.

    Args:
        sale: what is on sale at the beginning.
        name: begins the names of its operations; needed where several histories are merged.
        sink: told each line of JSON at once, such as a function that writes it to a file.
    """

    def __init__(
        self,
        sale: Sale,
        *,
        name: str = "",
        clock: Clock | None = None,
        sink: Callable[[str], object] = lambda _line: None,
    ) -> None:
        self._sale = sale
        self._name = name
        self._clock = clock or SystemClock()
        self._sink = sink
        self._numbers = count(1)
        self._calls: list[Call] = []
        self._locks: list[LockRecord] = []
        self._faults: list[FaultRecord] = []
        self._breakers: list[BreakerRecord] = []
        self._sink(sale_line(sale))

    @contextmanager
    def invoke(self, process: str, action: str, args: Mapping[str, Any]) -> Iterator[Call]:
        """Record an operation for the length of a body, which says how it ended.

        A body that is left without saying so, or by an exception, leaves it unknown.
        """
        number = f"{self._name}{next(self._numbers)}"
        call = Call(Operation(number, process, action, dict(args), self._clock.now_ms()))
        self._calls.append(call)
        self._sink(invocation_line(call.operation))
        token = _under_way.set(call)
        try:
            yield call
        except BaseException as error:
            if call.operation.outcome == "unknown":
                call.unknown(type(error).__name__)
            raise
        finally:
            _under_way.reset(token)
            call.operation = replace(call.operation, ended_ms=self._clock.now_ms())
            self._sink(answer_line(call.operation))

    def lock_event(self, event: LockEvent) -> None:
        """Record what happened to a lock; it is its hook."""
        call = _under_way.get()
        record = LockRecord(
            at_ms=event.at_ms,
            process=call.operation.process if call else "nobody",
            event=event.kind,
            key=event.key,
            token=event.token,
            fence=event.fence,
            until_ms=event.until_ms,
            asked_ms=event.at_ms - event.waited_ms if event.kind == "acquired" else None,
            operation=call.operation.id if call else None,
        )
        self._locks.append(record)
        self._sink(lock_line(record))

    def breaker_change(self, name: str, state: str, *, process: str) -> None:
        """Record that a process' circuit breaker changed to a state."""
        record = BreakerRecord(self._clock.now_ms(), process, name, state)
        self._breakers.append(record)
        self._sink(breaker_line(record))

    @contextmanager
    def fault(self, name: str, target: str = "") -> Iterator[None]:
        """Record a fault for the length of a body."""
        index = len(self._faults)
        self._faults.append(FaultRecord(name, target, self._clock.now_ms()))
        self._sink(fault_line(self._faults[index], f"{self._name}{index}"))
        try:
            yield
        finally:
            self._faults[index] = replace(self._faults[index], ended_ms=self._clock.now_ms())
            self._sink(fault_line(self._faults[index], f"{self._name}{index}", ended=True))

    def history(self) -> History:
        """What was recorded so far."""
        operations = tuple(call.operation for call in self._calls)
        locks = tuple(sorted(self._locks, key=lambda lock: lock.at_ms))
        faults, breakers = tuple(self._faults), tuple(self._breakers)
        return History(self._sale, operations, locks, faults, breakers)
