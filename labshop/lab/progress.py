"""What a learner predicted, solved and answered; printed, compared, and reported as JSON.

A prediction is made before the run that decides it, and met again after it: being wrong on
record teaches more than being told. Where nobody sits in front of the notebook, only the
question is printed.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from types import EllipsisType
from typing import TypeVar

from labshop.lab.charts import show, timeline
from labshop.lab.grade import Grade

HINT_AFTER = 2
"""Failures of the same property until a hint is given."""

T = TypeVar("T")


@dataclass
class Progress:
    """The record of one learner in one lesson."""

    lesson: str
    predictions: dict[str, dict[str, object]] = field(default_factory=dict)
    grades: dict[str, Grade] = field(default_factory=dict)
    tickets: dict[str, bool | None] = field(default_factory=dict)
    _failures: Counter[str] = field(default_factory=Counter)

    def predict(self, name: str, question: str, answer: int | EllipsisType) -> None:
        """Store a prediction, a whole number.

        Args:
            name: under which it is met again.
            question: what is asked.
            answer: the learner's, or ``...`` while there is none.

        Raises:
            TypeError: the answer is no whole number.
        """
        if answer is not ... and type(answer) is not int:
            raise TypeError(f"a whole number is asked for, and {answer!r} is none")
        self.predictions[name] = {"predicted": None if answer is ... else answer}
        print(question)
        if answer is ...:
            print("Put your answer in place of the dots, and run this cell again.")
        else:
            print(f"You say: {answer}")

    def meet(self, name: str, actual: int) -> None:
        """Hold a prediction against what has happened."""
        prediction = self.predictions[name]
        prediction["actual"] = actual
        said = prediction["predicted"]
        if said is None:
            print(f"It is {actual}.")
        elif said == actual:
            print(f"It is {actual}, as you said.")
        else:
            print(f"It is {actual}; you said {said}. What did you assume?")

    def check(self, grade: Grade, hints: dict[str, str]) -> None:
        """Print a grade, draw its first failure, and hint at it when it failed before."""
        self.grades[grade.exercise] = grade
        print(grade)
        failure = grade.first_failure
        if failure is None:
            return
        self._failures[failure.name] += 1
        if self._failures[failure.name] >= HINT_AFTER:
            print(f"Hint: {hints[failure.name]}")
        if failure.story:
            show(timeline(failure.story, title=failure.name, caption=failure.reason))

    def mine_or_reference(self, mine: T, reference: T, exercise: str) -> T:
        """The learner's own solution if it holds; else the package's, so that nothing waits."""
        grade = self.grades.get(exercise)
        if grade is not None and grade.finished:
            print("From here on, your own solution is used.")
            return mine
        print("From here on, the reference is used; come back when yours passes.")
        return reference

    def ticket(
        self, question: str, answer: str | EllipsisType, key: dict[str, tuple[str, str]]
    ) -> None:
        """One question at the exit; `key` holds the letter of the right answer, and why."""
        if answer is ...:
            self.tickets[question] = None
            print(f"open    {question}")
            return
        letter, why = key[question]
        self.tickets[question] = answer.strip().lower() == letter
        print(f"{'right' if self.tickets[question] else 'wrong':6}  {question}. {why}")

    def report(self) -> None:
        """Print progress and grade as JSON."""
        content = {
            "lesson": self.lesson,
            "predictions": self.predictions,
            "exercises": {
                name: {"points": grade.points, "out_of": grade.out_of}
                for name, grade in self.grades.items()
            },
            "tickets": self.tickets,
        }
        print(json.dumps(content, indent=1))
