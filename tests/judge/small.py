"""Operations in one line each, for examples that are read at a glance."""

from typing import Any

from labshop.judge.checker import check
from labshop.judge.history import FaultRecord, History, Operation, Sale
from labshop.judge.lines import read_history, write_history

SLOW = FaultRecord("slow", "network", 0.0, 100.0)


def op(
    who: str, action: str, span: tuple[float, float | None], args: dict[str, Any], **told: Any
) -> Operation:
    """An operation that is ok, or failed with an `error`; with the error "?" it is unknown."""
    error = told.get("error")
    outcome = "ok" if error is None else "unknown" if error == "?" else "fail"
    name = f"{who}{span[0]:g}"
    return Operation(name, who, action, args, *span, outcome, told)  # type: ignore[arg-type]


def buy(
    who: str, span: tuple[float, float | None], lines: dict[str, int], **told: Any
) -> Operation:
    """A purchase of a user of that name; `key` and `ask` are arguments, the rest was answered."""
    args = {
        "user": who,
        "lines": lines,
        "key": told.pop("key", None),
        "order": told.pop("ask", None),
    }
    return op(who, "buy", span, {n: v for n, v in args.items() if v is not None}, **told)


def audit(span: tuple[float, float], *rows: dict[str, Any], **told: Any) -> Operation:
    """A settled audit that lists these orders."""
    return op("judge", "audit", span, {"settled": True}, orders=list(rows), **told)


def row(order: str, user: str, lines: dict[str, int], **more: Any) -> dict[str, Any]:
    """An order in the ledger."""
    return {"order": order, "user": user, "key": None, "lines": lines, **more}


def broken(
    *operations: Operation, stock: int = 1, limit: int | None = None, **more: Any
) -> set[str]:
    """The properties that break; each witness must break the same, also after it was written."""
    history = History(Sale({1: stock, 2: 5}, limit), operations, **more)
    verdict = check(history)
    for violation in verdict.violations:
        again = read_history(write_history(violation.witness))
        assert again == violation.witness
        assert violation.property in check(again).broken
    return set(verdict.broken)


def reason(*operations: Operation, of: str, stock: int = 1, **more: Any) -> str:
    """Why one property breaks."""
    history = History(Sale({1: stock, 2: 5}, more.pop("limit", None)), operations, **more)
    [violation, *_] = check(history, [of]).violations
    return violation.reason
