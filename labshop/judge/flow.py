"""Movements of stock, and what they can add up to at any moment.

The problem: a movement's effect came at some moment between two known ones, perhaps never; so a
sum of movements is not a number but a range. The idea: what had surely come by the beginning of
an interval bounds it on one side, what may have come by its end on the other. Two things that
happened in the same millisecond have no order, so both are allowed.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from labshop.judge.history import Operation


@dataclass(frozen=True)
class Movement:
    """A change of one product's stock: negative units were taken, positive ones put back.

    Its effect came at some moment from `from_ms` to `by_ms`; it surely came if it is `certain`.
    `operations` are the few that show it. `buyer` is None where it belongs to no order.
    """

    product: int
    units: int
    from_ms: float
    by_ms: float
    certain: bool
    operations: tuple[Operation, ...]
    buyer: str | None = None


class Flow:
    """The sum of one product's movements within any interval, in logarithmic time."""

    def __init__(self, movements: Iterable[Movement]) -> None:
        moves = list(movements)
        self._put = _Tally([move for move in moves if move.units > 0])
        self._taken = _Tally([move for move in moves if move.units < 0])

    def least(self, from_ms: float, to_ms: float) -> int:
        """The lowest sum that any order of effects allows at some moment of an interval."""
        return self._put.sure_before(from_ms) - self._taken.possible_by(to_ms)

    def most(self, from_ms: float, to_ms: float) -> int:
        """The highest sum that any order of effects allows at some moment of an interval."""
        return self._put.possible_by(to_ms) - self._taken.sure_before(from_ms)

    def put_by(self, at_ms: float) -> int:
        """Units that may have been put back or added by a moment."""
        return self._put.possible_by(at_ms)


class _Tally:
    def __init__(self, movements: list[Movement]) -> None:
        begun = sorted(movements, key=lambda movement: movement.from_ms)
        certain = sorted((m for m in movements if m.certain), key=lambda m: m.by_ms)
        self._starts = [movement.from_ms for movement in begun]
        self._possible = [0, *accumulate(abs(movement.units) for movement in begun)]
        self._ends = [movement.by_ms for movement in certain]
        self._sure = [0, *accumulate(abs(movement.units) for movement in certain)]

    def possible_by(self, at_ms: float) -> int:
        return self._possible[bisect_right(self._starts, at_ms)]

    def sure_before(self, at_ms: float) -> int:
        return self._sure[bisect_left(self._ends, at_ms)]
