"""The verdict on a sale, from its books at the end.

Three numbers must fit: what there was, what was sold, and what is left. Selling more than
there was is oversold; leaving a unit while somebody who wanted it was turned away is
undersold. Whatever could not be read makes the verdict UNKNOWN, never VALID.
"""

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["VALID", "INVALID", "UNKNOWN"]


@dataclass(frozen=True)
class Books:
    """A product after a sale, in units; None is what could not be read.

    `wanted` is the demand; `left_gate` counts reserved units as left, as nobody has them yet.
    """

    stock: int
    wanted: int
    sold: int | None
    left_ledger: int | None = None
    left_gate: int | None = None

    @property
    def oversold(self) -> int:
        """Units sold that never existed."""
        return max(0, (self.sold or 0) - self.stock)

    @property
    def undersold(self) -> int:
        """Units that were wanted and there, and not sold."""
        return max(0, min(self.stock, self.wanted) - (self.sold or 0))

    def __str__(self) -> str:
        return f"sold {self.sold}, left in SQL {self.left_ledger}, at the gate {self.left_gate}"


@dataclass(frozen=True)
class Verdict:
    """An outcome, and the sentence that says why."""

    outcome: Outcome
    reason: str

    def __str__(self) -> str:
        return f"{self.outcome}: {self.reason}"


def judge(books: Books) -> Verdict:
    """Judge a sale that has ended."""
    if books.sold is None:
        return Verdict("UNKNOWN", "the orders could not be counted")
    if books.oversold:
        return Verdict("INVALID", f"{books.sold} units sold of {books.stock}")
    for name, left in (("ledger", books.left_ledger), ("gate", books.left_gate)):
        if left is not None and books.sold + left != books.stock:
            return Verdict(
                "INVALID", f"{books.sold} sold and {left} left at the {name} is not {books.stock}"
            )
    if books.undersold:
        wanted = min(books.stock, books.wanted)
        return Verdict("INVALID", f"{books.sold} units sold, and {wanted} were wanted and there")
    return Verdict("VALID", f"{books.sold} sold of {books.stock}, {books.wanted} wanted")
