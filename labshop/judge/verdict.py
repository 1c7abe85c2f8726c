"""What a judge says: an outcome, the sentence that says why, and what shows it.

VALID    every property that could be checked holds
INVALID  one does not; the smallest failing history is attached
UNKNOWN  something could not be read, or the search was given up: nobody is accused
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from labshop.judge.history import History

Outcome = Literal["VALID", "INVALID", "UNKNOWN"]


@dataclass(frozen=True)
class Violation:
    """A property that does not hold.

    `witness` is the smallest failing history that was found: judged by itself, it violates the
    same property. `culprits` are the ids of its operations, or the tokens of its leases, that
    contradict each other.
    """

    property: str
    reason: str
    witness: History
    culprits: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.property}: {self.reason}"


@dataclass(frozen=True)
class Verdict:
    """The outcome of a judgement.

    `undecided` says what could not be checked, and why; `measures` are figures that nobody is
    accused by, such as how often a buyer was overtaken.
    """

    outcome: Outcome
    reason: str
    violations: tuple[Violation, ...] = ()
    undecided: tuple[str, ...] = ()
    measures: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.outcome}: {self.reason}"

    @property
    def broken(self) -> tuple[str, ...]:
        """The names of the properties that do not hold, each once."""
        return tuple(dict.fromkeys(violation.property for violation in self.violations))

    @property
    def first_of_each(self) -> tuple[Violation, ...]:
        """The first violation of each property that does not hold."""
        first: dict[str, Violation] = {}
        for violation in self.violations:
            first.setdefault(violation.property, violation)
        return tuple(first.values())
