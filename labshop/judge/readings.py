"""What was seen of a product's units at one moment, by a read or by an audit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from labshop.judge.history import History, Operation, by_product


@dataclass(frozen=True)
class Reading:
    """What one place told of one product: units that nobody has bought, and units sold.

    Held units count as unsold, for nobody has them yet. None is what was not told.
    """

    operation: Operation
    product: int
    place: str | None
    unsold: int | None
    sold: int | None


def readings_of(history: History) -> Iterator[Reading]:
    """All readings of a history."""
    for operation in history.operations:
        if operation.outcome == "ok" and operation.action == "read":
            told = {name: operation.result.get(name) for name in ("left", "held", "sold")}
            unsold = None if told["left"] is None else int(told["left"]) + int(told["held"] or 0)
            sold = None if told["sold"] is None else int(told["sold"])
            product, place = int(operation.args["product"]), operation.args.get("place")
            yield Reading(operation, product, place, unsold, sold)
        elif operation.outcome == "ok" and operation.action == "audit":
            yield from _audited(operation, history.sale.stock)


def _audited(audit: Operation, stock: Mapping[int, int]) -> Iterator[Reading]:
    left, held = by_product(audit.result.get("left")), by_product(audit.result.get("held"))
    sold = by_product(audit.result.get("sold"))
    if "orders" in audit.result and not sold:
        # Of a product that no order names, nothing is sold.
        sold = dict.fromkeys(stock, 0) | _sold_by_orders(audit)
    # A shop's counter and its ledger do not change in the same moment, so they are two places.
    place = str(audit.args.get("place") or "ledger")
    for product in sorted(left.keys() | sold.keys()):
        unsold = left[product] + held.get(product, 0) if product in left else None
        yield Reading(audit, product, place, unsold, sold.get(product))


def _sold_by_orders(audit: Operation) -> dict[int, int]:
    """Units in the orders that stand."""
    sold: dict[int, int] = {}
    for row in audit.result["orders"]:
        if row.get("status") != "cancelled":
            for product, units in by_product(row.get("lines")).items():
                sold[product] = sold.get(product, 0) + units
    return sold
