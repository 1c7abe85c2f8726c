"""The verdict on a sale, from its books at the end.

Three numbers must fit: what there was, what was sold, and what is left. Selling more than
there was is oversold; leaving a unit while somebody who wanted it was turned away is
undersold. Whatever could not be read makes the verdict UNKNOWN, never VALID.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from labshop.judge.verdict import Verdict


@dataclass(frozen=True)
class Books:
    """A product after a sale, in units; None is what was looked for and could not be read.

    `wanted` is the demand. `left` names each place that was looked at; a place that nobody asked
    is not in it. Reserved units count as left, for nobody has them yet.
    """

    stock: int
    wanted: int
    sold: int | None
    left: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def oversold(self) -> int:
        """Units sold that never existed."""
        return max(0, (self.sold or 0) - self.stock)

    @property
    def undersold(self) -> int:
        """Units that were wanted and there, and not sold."""
        return max(0, min(self.stock, self.wanted) - (self.sold or 0))

    def __str__(self) -> str:
        places = (f"left at the {place} {units}" for place, units in self.left.items())
        return ", ".join((f"sold {self.sold}", *places))


def judge(books: Books) -> Verdict:
    """Judge a sale that has ended."""
    unread = [place for place, units in books.left.items() if units is None]
    if books.sold is None or unread:
        return Verdict("UNKNOWN", f"could not be read: {', '.join(unread) or 'the orders'}")
    if books.oversold:
        return Verdict("INVALID", f"{books.sold} units sold of {books.stock}")
    for place, units in books.left.items():
        if books.sold + (units or 0) != books.stock:
            return Verdict(
                "INVALID", f"{books.sold} sold and {units} left at the {place} is not {books.stock}"
            )
    if books.undersold:
        wanted = min(books.stock, books.wanted)
        return Verdict("INVALID", f"{books.sold} units sold, and {wanted} were wanted and there")
    return Verdict("VALID", f"{books.sold} sold of {books.stock}, {books.wanted} wanted")
