"""The search for one order of effects that explains every answer about a counter.

It goes through the history in time and keeps every *configuration* that is possible so far: the
counter's value, and which of the open operations have taken effect. Effects are chosen just in
time, when an answer demands it (G. Lowe, "Testing for Linearizability", 2017), and a configuration
that was reached before is not searched twice.

It is exponential at worst, hence bounded: it then says that it is *undecided*, and accuses nobody.
"""

import math
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from labshop.judge.history import Operation

MOST_CONFIGURATIONS = 20_000
"""Configurations that one answer may lead to before the search is given up."""
MOST_WORK = 1_000_000
"""Configurations of a whole search, weighted with what is open: some seconds of work."""


class Undecided(Exception):
    """The search was given up."""


@dataclass(frozen=True)
class Step:
    """What an operation does to the counter: it finds `least` to `most` units, and adds `delta`.

    It takes effect between `from_ms` and `by_ms`; where `by_ms` is infinite, perhaps never.
    """

    from_ms: float
    by_ms: float
    delta: int
    least: float
    most: float
    operations: tuple[Operation, ...]

    def fits(self, units: int) -> bool:
        """Whether the counter may stand so when this step takes effect."""
        return self.least <= units <= self.most


def first_unexplained(steps: Sequence[Step], stock: int) -> Step | None:
    """The first step whose answer no order of effects explains; None if all are explained.

    Args:
        steps: in the order of their beginning.
        stock: the counter at the beginning.

    Raises:
        Undecided: an answer led to more than `MOST_CONFIGURATIONS`, or all of them to more than
            `MOST_WORK`.
    """
    moments = [(step.from_ms, 0, number) for number, step in enumerate(steps)]
    moments += [(s.by_ms, 1, number) for number, s in enumerate(steps) if s.by_ms < math.inf]
    search = _Search(steps, stock)
    for _, ends, number in sorted(moments):
        if not ends:
            search.begin(number)
        elif not search.end(number):
            return steps[number]
    return None


Configuration = tuple[int, frozenset[int]]
"""The counter's value, and the open steps that have taken effect."""


class _Search:
    def __init__(self, steps: Sequence[Step], stock: int) -> None:
        self._steps = steps
        self._moving: list[int] = []
        self._looking: set[int] = set()
        self._possible: set[Configuration] = {(stock, frozenset())}
        self._work = 0

    def begin(self, number: int) -> None:
        if not self._steps[number].delta:
            self._looking.add(number)
            return
        # Kept so that the one that must be done first stands first.
        insort(self._moving, number, key=lambda other: (self._steps[other].by_ms, other))

    def end(self, number: int) -> bool:
        """Keep what is possible with this step done; False if nothing is."""
        waiting = [it for it in self._possible if number not in it[1]]
        kept = {(units, done - {number}) for units, done in self._possible if number in done}
        seen: set[Configuration] = set()
        while waiting:
            units, done = self._with_observations(waiting.pop())
            self._count(len(seen))
            if (units, done) in seen:
                continue
            seen.add((units, done))
            if number in done:
                kept.add((units, done - {number}))
                continue
            waiting += (
                (units + self._steps[other].delta, done | {other})
                for other in self._next_movements(units, done, number)
            )
        self._looking.discard(number)
        if self._steps[number].delta:
            self._moving.remove(number)
        self._possible = kept
        return bool(kept)

    def _count(self, configurations: int) -> None:
        self._work += 1 + len(self._moving) // 10
        if configurations > MOST_CONFIGURATIONS or self._work > MOST_WORK:
            most = MOST_CONFIGURATIONS if configurations > MOST_CONFIGURATIONS else MOST_WORK
            raise Undecided(f"more than {most} orders of effects are possible")

    def _with_observations(self, configuration: Configuration) -> Configuration:
        """What only looks, looks as soon as it fits: that never bars another order."""
        units, done = configuration
        looks = {
            number
            for number in self._looking
            if number not in done and self._steps[number].fits(units)
        }
        return (units, done | looks) if looks else configuration

    def _next_movements(self, units: int, done: frozenset[int], number: int) -> Iterable[int]:
        """Of movements that are alike, the one that must be done first stands for all.

        A movement that can be done at once need not wait for others that nobody watches.
        """
        if self._steps[number].delta and self._steps[number].fits(units) and self._looking <= done:
            return (number,)
        first: dict[int, int] = {}
        for other in self._moving:
            step = self._steps[other]
            if step.delta not in first and other not in done and step.fits(units):
                first[step.delta] = other
        return first.values()
