"""A circuit breaker: whoever fails again and again is left in peace for a while.

The problem: a database that is away makes every caller wait for its timeout, and the moment it
comes back the whole queue meets it. The idea: after some failures in a row the breaker *opens*,
and refuses at once; later it is *half open* for the length of exactly one call, the probe, whose
end closes it or opens it again.

- Failures are counted in a row, not as a share of a window. A breaker is for a dependency that is
  away, and then every call fails; one that fails half of the time still serves the other half,
  which a breaker would take away from it. A row needs no time, and no least number of calls.
- What is a failure is the caller's word. "Sold out" is an answer: whoever gives it is well.
- An answer counts only in the state in which its call began. A late success of yesterday does
  not close a breaker that has opened since, and a late failure does not open one that has closed.
- A call that was cancelled says nothing about the other side. A cancelled probe is given back: the
  breaker is open, and the next caller is the probe.
- Durations are measured on a monotonic clock: a wall clock that is set back opens it for ever.

It does not promise to end a call that hangs: the dependency's own timeout does, *inside* of the
breaker; a deadline around it cancels, and so is not counted. It is known to one process only.

Source: M. Nygard, "Release It!" (2007), chapter "Stability Patterns".
"""

from collections.abc import Awaitable, Callable
from typing import Literal, ParamSpec, TypeVar, get_args

from labshop.clock import Clock, SystemClock
from labshop.resilience.errors import BreakerOpen

P = ParamSpec("P")
T = TypeVar("T")

BreakerState = Literal["closed", "open", "half_open"]
BREAKER_STATES: tuple[BreakerState, ...] = get_args(BreakerState)

PROBE_MS = 1_000
"""Whoever meets a probe is told to come again when it should be over."""


def any_error(_error: Exception) -> bool:
    """Count every error as a failure."""
    return True


def ignore_change(_name: str, _state: BreakerState) -> None:
    """Tell nobody."""


class CircuitBreaker:
    """The breaker of one dependency: ``await breaker.call(step, argument)``.

    Args:
        name: of the dependency.
        failure_threshold: so many failures in a row open it.
        recovery_ms: how long it refuses before it lets a probe through.
        is_failure: whether an error means that the dependency is not well.
        on_change: told of each change of state, with the name; it must not raise.
    """

    def __init__(
        self,
        name: str,
        *,
        failure_threshold: int = 5,
        recovery_ms: float = 60_000,
        is_failure: Callable[[Exception], bool] = any_error,
        clock: Clock | None = None,
        on_change: Callable[[str, BreakerState], object] = ignore_change,
    ) -> None:
        if failure_threshold < 1:
            raise ValueError("a breaker needs a failure to open")
        self.name = name
        self.state: BreakerState = "closed"
        self.opened = 0
        """How often it has opened."""
        self.refused = 0
        """How many calls it has not let through."""
        self._failure_threshold = failure_threshold
        self._recovery_ms = recovery_ms
        self._is_failure = is_failure
        self._clock = clock or SystemClock()
        self._on_change = on_change
        self._failures = 0
        self._probe_at_ms = 0.0
        self._changes = 0

    async def call(self, step: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call, if the breaker lets it through.

        Raises:
            BreakerOpen: it was not made. Others: as the call.
        """
        if self.state != "closed":
            self._begin_probe()
        begun = self._changes
        try:
            answer = await step(*args, **kwargs)
        except BaseException as error:
            if self._counts(begun):
                self._take_in(error)
            raise
        if self._counts(begun):
            self._succeed()
        return answer

    def retry_after_ms(self) -> float:
        """When it may be worth trying, in milliseconds from now; 0 if it is at once."""
        if self.state == "closed":
            return 0.0
        if self.state == "half_open":
            return PROBE_MS
        return max(0.0, self._probe_at_ms - self._clock.now_ms())

    def _begin_probe(self) -> None:
        retry_after_ms = self.retry_after_ms()
        if retry_after_ms:
            self.refused += 1
            raise BreakerOpen(self.name, retry_after_ms)
        if self.state == "open":
            self._change("half_open")

    def _counts(self, begun: int) -> bool:
        """Whether the state is still the one in which a call began, after so many changes."""
        return begun == self._changes

    def _take_in(self, error: BaseException) -> None:
        if not isinstance(error, Exception):
            self._give_back()
        elif self._is_failure(error):
            self._fail()
        else:
            self._succeed()

    def _succeed(self) -> None:
        self._failures = 0
        if self.state == "half_open":
            self._change("closed")

    def _fail(self) -> None:
        self._failures += 1
        if self.state == "half_open" or self._failures >= self._failure_threshold:
            self._failures = 0
            self.opened += 1
            self._probe_at_ms = self._clock.now_ms() + self._recovery_ms
            self._change("open")

    def _give_back(self) -> None:
        """The call was cancelled. The time of a probe has come already: the next caller is it."""
        if self.state == "half_open":
            self._change("open")

    def _change(self, state: BreakerState) -> None:
        self.state = state
        self._changes += 1
        self._on_change(self.name, state)
