"""A measured figure, and the rounds that it is gathered from.

The problem: on a shared machine one measurement is an accident, and a library that hangs must
not hang the whole run. The idea: whatever is measured is measured in rounds, beside what it is
compared with; a figure is the median of its rounds with the least and the greatest. A library
that fails in one round is not asked again, and its figure says how it failed.

It does not promise that a difference smaller than the spread means anything.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Figure:
    """One line of the table: the median of all rounds, the least and the greatest.

    The three are None when there is nothing to tell but the `failure`.
    """

    name: str
    meaning: str
    median: float | None
    least: float | None
    greatest: float | None
    failure: str | None = None

    @classmethod
    def of(cls, name: str, meaning: str, values: Sequence[float]) -> "Figure":
        """The figure of so many rounds."""
        return cls(name, meaning, statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        if self.median is None:
            return f"{self.name:48} {self.failure}"
        return f"{self.name:48} {self.median:9.2f}   ({self.least:.2f} to {self.greatest:.2f})"


@dataclass(frozen=True)
class Measure:
    """What is measured of several libraries."""

    name: str
    meaning: str


class Tally:
    """What the rounds have brought.

    Args:
        measures: in the order in which they are to be shown.
    """

    def __init__(self, measures: Iterable[Measure]) -> None:
        self._values: dict[Measure, dict[str, list[float]]] = {each: {} for each in measures}
        self._failures: dict[tuple[Measure, str], str] = {}

    def add(self, measure: Measure, library: str, value: float) -> None:
        """Note what a round has brought."""
        self._values[measure].setdefault(library, []).append(value)

    def fail(self, measure: Measure, library: str, failure: str) -> None:
        """Note that a library could not do it; what it did in earlier rounds counts no more."""
        self._values[measure].setdefault(library, [])
        self._failures[measure, library] = failure

    def has_failed(self, measure: Measure, library: str) -> bool:
        """Whether a library need not be asked for this again."""
        return (measure, library) in self._failures

    def failure(self, measure: Measure, library: str) -> str:
        """How a library failed."""
        return self._failures[measure, library]

    def figures(self) -> list[Figure]:
        """The figures, measure by measure."""
        return [
            self._figure(measure, library, values)
            for measure, values_of in self._values.items()
            for library, values in values_of.items()
        ]

    def _figure(self, measure: Measure, library: str, values: Sequence[float]) -> Figure:
        name = f"{measure.name}, {library}"
        failure = self._failures.get((measure, library))
        if failure is not None:
            return Figure(name, measure.meaning, None, None, None, failure)
        return Figure.of(name, measure.meaning, values)


def table(figures: Iterable[Figure]) -> str:
    """The figures as lines, under a line for each meaning."""
    lines = []
    for meaning, group in groupby(figures, key=lambda figure: figure.meaning):
        lines += ["", meaning, *(f"  {figure}" for figure in group)]
    return "\n".join(lines[1:])
