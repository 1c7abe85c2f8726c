"""A deadline that travels with the work, so that nobody works for a buyer who has gone.

The problem: each layer has a timeout of its own, and their sum is what the buyer waits. The idea:
one moment, set where the request comes in, that all who work for it can ask for; it travels in a
context variable, into tasks that are started meanwhile too. A deadline inside another one can only
shorten it.

It is asked before a step begins, and cuts nothing off: a commit that is cut off is an unknown
outcome, one that was not begun is a refusal. Only pure waiting may be cut off, by `until_deadline`.

It does not promise that the work ends at the deadline: the step under way then has a timeout of
its own. It does not travel to other processes either.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from contextvars import ContextVar

from labshop.clock import Clock, SystemClock
from labshop.resilience.errors import DeadlineExceeded


class _Deadline:
    """A moment, which stands for the length of a ``with`` body."""

    __slots__ = ("_at_ms", "_clock", "_outer")

    def __init__(self, duration_ms: float, clock: Clock) -> None:
        self._clock = clock
        self._at_ms = clock.now_ms() + duration_ms

    def remaining_ms(self) -> float:
        return self._at_ms - self._clock.now_ms()

    def __enter__(self) -> None:
        outer = _current.get()
        is_earlier = outer is None or self.remaining_ms() < outer.remaining_ms()
        self._outer = _current.set(self if is_earlier else outer)

    def __exit__(self, *_end: object) -> None:
        _current.reset(self._outer)


_current: ContextVar[_Deadline | None] = ContextVar("deadline", default=None)
_SYSTEM_CLOCK = SystemClock()


def deadline_in_ms(
    duration_ms: float, clock: Clock = _SYSTEM_CLOCK
) -> AbstractContextManager[None]:
    """Set a deadline for the length of a body, unless an earlier one stands already."""
    return _Deadline(duration_ms, clock)


def remaining_ms() -> float:
    """Milliseconds until the deadline; negative when it has passed, infinite without one."""
    deadline = _current.get()
    return math.inf if deadline is None else deadline.remaining_ms()


def check_deadline() -> None:
    """Ask before a step begins.

    Raises:
        DeadlineExceeded: no time is left.
    """
    left_ms = remaining_ms()
    if left_ms <= 0:
        raise DeadlineExceeded(-left_ms)


@asynccontextmanager
async def until_deadline() -> AsyncIterator[None]:
    """Cut the body off at the deadline. Only for waiting: what is cut off must not have an effect.

    Raises:
        DeadlineExceeded: the deadline has passed.
    """
    check_deadline()
    left_ms = remaining_ms()
    cut = asyncio.timeout(None if math.isinf(left_ms) else left_ms / 1_000)
    try:
        async with cut:
            yield
    except TimeoutError:
        if not cut.expired():
            raise
        raise DeadlineExceeded(max(0.0, -remaining_ms())) from None
