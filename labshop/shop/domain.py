"""What is bought, by whom, and what the buyer is told.

All values are immutable. Money is in integer minor units (cents), stock in integer units.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Literal
from uuid import UUID

from uuid_utils.compat import uuid7

from labshop.shop.errors import BadOrder

MAX_LINES = 10
MAX_QUANTITY = 100


@dataclass(frozen=True)
class Line:
    """So many units of one product."""

    product_id: int
    quantity: int


@dataclass(frozen=True)
class Order:
    """What a buyer asks for; made once per request, by `place`.

    `idempotency_key` is the buyer's own name for this request: with the same key, an order
    is booked once, however often it is sent. `fingerprint` tells a repeated request from a
    different one under the same key. `token_id` names the token that the buyer showed: the gate
    refuses one that was taken back.
    """

    id: UUID
    user_id: int
    lines: tuple[Line, ...]
    idempotency_key: str | None = None
    fingerprint: str = ""
    token_id: str = ""

    @classmethod
    def place(
        cls,
        user_id: int,
        lines: Iterable[Line],
        *,
        idempotency_key: str | None = None,
        token_id: str = "",
    ) -> "Order":
        """Make an order whose lines are merged per product and sorted by product id.

        Raises:
            BadOrder: no line, more than `MAX_LINES` products, or a quantity that is not
                between 1 and `MAX_QUANTITY`.
        """
        merged = merge_lines(lines)
        fingerprint = ",".join(f"{line.product_id}x{line.quantity}" for line in merged)
        return cls(uuid7(), user_id, merged, idempotency_key, fingerprint, token_id)

    def merged(self) -> "Order":
        """The same order, its lines merged per product and sorted by product id.

        Raises:
            BadOrder: see `place`.
        """
        products = [line.product_id for line in self.lines]
        if all(earlier < later for earlier, later in pairwise(products)):
            return self
        return replace(self, lines=merge_lines(self.lines))

    def single_line(self) -> Line:
        """The only line.

        Raises:
            BadOrder: there are several.
        """
        if len(self.lines) > 1:
            raise BadOrder("This stage sells one product at a time; /v2/purchases takes several.")
        return self.lines[0]


@dataclass(frozen=True)
class Receipt:
    """What was booked.

    `sequence` is the position of the order's stock events in the ledger, `fence` the fencing
    token under which it was written.
    """

    order_id: UUID
    user_id: int
    lines: tuple[Line, ...]
    price_minor: int
    fence: int
    sequence: int
    status: Literal["confirmed", "cancelled"]
    created_at: datetime
    idempotency_key: str | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Sale:
    """The window in which a sale is open, and how many units one user may buy in it."""

    id: int
    name: str
    opens_at: datetime
    closes_at: datetime
    limit_per_user: int


def merge_lines(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Sum the quantities per product, and sort by product id.

    Raises:
        BadOrder: see `Order.place`.
    """
    quantities: dict[int, int] = {}
    for line in lines:
        if line.quantity < 1:
            raise BadOrder("A quantity is at least 1.")
        quantities[line.product_id] = quantities.get(line.product_id, 0) + line.quantity
    if not 1 <= len(quantities) <= MAX_LINES:
        raise BadOrder(f"An order has 1 to {MAX_LINES} products.")
    if max(quantities.values()) > MAX_QUANTITY:
        raise BadOrder(f"An order has at most {MAX_QUANTITY} units of a product.")
    return tuple(Line(product_id, quantities[product_id]) for product_id in sorted(quantities))
