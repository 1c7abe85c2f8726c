"""Why a purchase did not happen, or why nobody knows.

    PurchaseError
    ├── Refused            definite: nothing was booked
    │   ├── BadOrder         it breaks a rule of its own
    │   ├── NoSuchProduct    this product is not sold here
    │   ├── NoSuchOrder      this user has no such order
    │   ├── SoldOut          demand met the end of the stock
    │   ├── StockHeld        the last units are reserved by orders that are not settled yet
    │   ├── LimitReached     the user has bought what one user may
    │   ├── SaleClosed       outside the sale's window
    │   ├── StaleFence       a later holder of the lock has written already
    │   ├── SignedOut        the buyer's token was taken back
    │   ├── KeyReused        the idempotency key stands for a different order
    │   ├── AlreadyBooked    the idempotency key's order exists; it is attached
    │   └── Unavailable      a store cannot be reached, and nothing was booked
    │       └── Overloaded     it was not even asked, to protect it; says when to come again
    └── Unknown            indefinite: the ledger may have booked it; look it up by its id

A `Refused` may be undone at once. After anything else, what was reserved stays reserved until
its order has been looked up in the ledger.
"""

import math
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from labshop.shop.domain import Receipt


class PurchaseError(Exception):
    """Any end of a purchase other than a receipt."""


class Refused(PurchaseError):
    """Nothing was booked, for certain."""


class BadOrder(Refused):
    """The order breaks a rule that needs no look at the stock."""


class NoSuchProduct(Refused):
    def __init__(self, product_id: int) -> None:
        super().__init__(f"There is no product {product_id}.")
        self.product_id = product_id


class NoSuchOrder(Refused):
    def __init__(self, order_id: UUID) -> None:
        super().__init__(f"There is no order {order_id}.")
        self.order_id = order_id


class SoldOut(Refused):
    def __init__(self, product_id: int, left: int) -> None:
        super().__init__(f"Product {product_id} has {left} units left.")
        self.product_id = product_id
        self.left = left


class StockHeld(Refused):
    def __init__(self, product_id: int) -> None:
        super().__init__(f"The last units of product {product_id} are reserved; try again soon.")
        self.product_id = product_id


class LimitReached(Refused):
    def __init__(self, limit: int, bought: int) -> None:
        super().__init__(f"One user may buy {limit} units in this sale; {bought} are bought.")
        self.limit = limit
        self.bought = bought


class SaleClosed(Refused):
    def __init__(self) -> None:
        super().__init__("The sale is not open.")


class SignedOut(Refused):
    def __init__(self) -> None:
        super().__init__("This token was taken back.")


class StaleFence(Refused):
    def __init__(self, product_id: int, fence: int, newest: int) -> None:
        super().__init__(f"Fence {fence} of product {product_id} is older than {newest}.")
        self.product_id = product_id
        self.fence = fence
        self.newest = newest


class KeyReused(Refused):
    def __init__(self, key: str) -> None:
        super().__init__("This Idempotency-Key was used for a different order.")
        self.key = key


class AlreadyBooked(Refused):
    """The order of this idempotency key stands in the ledger already: this is its receipt."""

    def __init__(self, receipt: "Receipt") -> None:
        super().__init__(f"This Idempotency-Key stands for order {receipt.order_id}.")
        self.receipt = receipt


class Unavailable(Refused):
    def __init__(self, store: str, reason: str) -> None:
        super().__init__(f"The {store} cannot be reached: {reason}.")
        self.store = store
        self.reason = reason


class Overloaded(Unavailable):
    """The shop turned it away at once: a store is left in peace, or too many buyers are inside."""

    def __init__(self, store: str, reason: str, retry_after_ms: float) -> None:
        super().__init__(store, reason)
        self.retry_after_s = max(1, math.ceil(retry_after_ms / 1_000))


class Unknown(PurchaseError):
    """The outcome is indefinite: ask the ledger for the order's id."""

    def __init__(self, order_id: UUID, reason: str) -> None:
        super().__init__(f"Nobody knows yet whether order {order_id} was booked: {reason}.")
        self.order_id = order_id
        self.reason = reason
