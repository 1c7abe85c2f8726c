"""What an action's arguments and result must look like, so that a wrong line is named at once."""

from collections.abc import Mapping
from typing import Any


def check_arguments(action: str, args: Mapping[str, Any]) -> None:
    """Refuse arguments that could not be judged; actions that nobody judges may have any.

    Raises:
        ValueError: the sentence says what is wrong with them.
    """
    if action == "buy":
        if not args.get("lines"):
            raise ValueError("a buy needs `lines`: units by product")
        _check_units("lines", args["lines"])
    elif action in ("read", "restock"):
        for name in ("product", "units")[: 1 + (action == "restock")]:
            _check_number(name, args.get(name))
    elif action == "cancel" and args.get("order") is None:
        raise ValueError("a cancel needs the `order`")


def check_result(action: str, told: Mapping[str, Any]) -> None:
    """Refuse an answer that could not be judged.

    Raises:
        ValueError: the sentence says what is wrong with it.
    """
    if action == "read":
        for name in ("left", "held", "sold"):
            if told.get(name) is not None:
                _check_number(name, told[name])
    elif action == "audit":
        for name in ("left", "held", "sold"):
            _check_units(name, told.get(name) or {})
        for row in told.get("orders") or ():
            if not isinstance(row, dict) or row.get("order") is None:
                raise ValueError("each of the `orders` of an audit needs its `order`")
            _check_units("lines", row.get("lines"))


def _check_units(name: str, units: object) -> None:
    if not isinstance(units, Mapping):
        wrong = f"`{name}` must be units by product"
        raise ValueError(wrong)  # noqa: TRY004  # whoever wrote the line gets one kind of error
    for product, count in units.items():
        _check_number(f"a product in `{name}`", product)
        _check_number(f"`{name}` of product {product}", count)


def _check_number(name: str, value: object) -> None:
    # In Python, true is a number; to whoever wrote it, it was none.
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{name} must be a whole number, and is {value!r}")  # noqa: TRY004  # the same
    int(value)
