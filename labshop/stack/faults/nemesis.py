"""A schedule of faults for a run: what is broken, when, and for how long, drawn from a seed.

The problem: faults must come while the sale goes on, also while the code under test holds the
event loop, and must be healed whatever happens. The idea: threads of its own work through a plan
of *strikes*, each a context manager; strikes on different targets may overlap. Whoever leaves the
nemesis' body, by whatever way, heals everything that is broken at that moment.

The plan follows from the seed. What the servers make of it does not, for they are real.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from labshop.stack.faults.errors import FaultUnavailable

Fault = Callable[[], AbstractContextManager[object]]
Watch = Callable[[str, str], AbstractContextManager[object]]


@dataclass(frozen=True)
class Strike:
    """One fault: its name, what it hits, when it begins and how long it lasts, in seconds."""

    name: str
    target: str
    at_s: float
    for_s: float
    fault: Fault


def draw_strikes(
    menu: Mapping[tuple[str, str], Fault], *, seed: int, within_s: float, count: int
) -> list[Strike]:
    """Draw a plan.

    Args:
        menu: the faults to choose from, by name and target.
        seed: the same seed draws the same plan.
        within_s: all of them begin and end within this time.
        count: how many.
    """
    chance = random.Random(seed)  # noqa: S311  # a schedule is drawn, not hidden
    strikes = []
    for _ in range(count):
        name, target = chance.choice(sorted(menu))
        at_s = chance.uniform(0.0, within_s * 0.8)
        for_s = chance.uniform(0.05, min(0.5, within_s - at_s))
        strikes.append(Strike(name, target, at_s, for_s, menu[name, target]))
    return sorted(strikes, key=lambda strike: strike.at_s)


class Nemesis:
    """Works through a plan for the length of a ``with`` body, and heals at its end.

    Args:
        strikes: the plan.
        watch: a context manager that surrounds each fault, such as a recorder's `fault`.
    """

    def __init__(
        self, strikes: Sequence[Strike], *, watch: Watch = lambda _name, _target: nullcontext()
    ) -> None:
        self.skipped: list[str] = []
        """Why a fault was not made, one sentence each."""
        self._strikes = strikes
        self._watch = watch
        self._over = threading.Event()
        self._turns = {strike.target: threading.Lock() for strike in strikes}
        self._begun = {strike: threading.Event() for strike in strikes}
        self._errors: list[Exception] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        began_s = time.monotonic()
        # A thread a strike, so that a slow restart does not hold up the others.
        for strike in self._strikes:
            thread = threading.Thread(
                target=self._strike, args=(strike, began_s), name=f"nemesis {strike.name}"
            )
            self._threads.append(thread)
            thread.start()
        # What is broken from the beginning is broken before the body begins.
        for strike in self._strikes:
            if strike.at_s <= 0:
                self._begun[strike].wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        try:
            self._join()
        except BaseException:
            # Interrupted while it heals: it heals all the same.
            self._join()
            raise
        if self._errors and error is None:
            raise ExceptionGroup("a fault could not be made or healed", self._errors)

    def wait(self) -> None:
        """Wait until the whole plan is carried out and healed."""
        self._join()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _strike(self, strike: Strike, began_s: float) -> None:
        self._over.wait(max(0.0, began_s + strike.at_s - time.monotonic()))
        try:
            with self._turns[strike.target], ExitStack() as healing:
                if self._over.is_set():
                    return
                healing.enter_context(strike.fault())
                healing.enter_context(self._watch(strike.name, strike.target))
                self._begun[strike].set()
                self._over.wait(strike.for_s)
        except FaultUnavailable as sentence:
            self.skipped.append(str(sentence))
        except Exception as error:  # noqa: BLE001  # told to whoever leaves the body
            self._errors.append(error)
        finally:
            self._begun[strike].set()
