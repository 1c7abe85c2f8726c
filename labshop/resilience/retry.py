"""Trying again: a few times, later and later, and never all at the same moment.

The problem: a lost packet should not cost a sale; but a thousand callers who all try again after
100 ms are a second crowd, as large as the first. The idea: the pause before a try is drawn between
nothing and a bound that doubles (*full jitter*), so that the crowd spreads out; the tries are few,
and end at the deadline. Whether an error is worth another try is decided for each one.

Only for work that may be carried out twice, or that certainly was not carried out: a sale whose
outcome is unknown is looked up, not sold again.

It does not promise to help an overloaded server: that needs a breaker *inside* of the retry, whose
refusal is not tried again.

Why not stamina, which others use: it sleeps and draws by itself, so a test could own neither clock
nor chance; its jitter comes on top of the pause; and it does not know our deadline.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog (2015).
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from labshop.clock import Clock
from labshop.resilience.deadline import remaining_ms

T = TypeVar("T")

MOST_DOUBLINGS = 32


@dataclass(frozen=True)
class Backoff:
    """How often to try, and how long to pause in between.

    `tries` counts the first one. The bound of the first pause is `first_ms`; it doubles each time,
    up to `longest_ms`.
    """

    tries: int = 3
    first_ms: float = 25.0
    longest_ms: float = 1_000.0

    def pause_ms(self, failures: int, chance: random.Random) -> float:
        """The pause after so many failures, drawn anew each time, in milliseconds."""
        doublings = min(failures - 1, MOST_DOUBLINGS)
        return chance.uniform(0.0, min(self.longest_ms, self.first_ms * 2**doublings))


def ignore_failure() -> None:
    """Tell nobody."""


async def retry(
    attempt: Callable[[], Awaitable[T]],
    *,
    on: Callable[[Exception], bool],
    backoff: Backoff,
    clock: Clock,
    chance: random.Random,
    before_again: Callable[[], object] = ignore_failure,
) -> T:
    """Make a call, and make it again while its error allows it.

    Args:
        attempt: the call; it may be carried out several times.
        on: whether an error is worth another try.
        backoff: how often, and with which pauses.
        clock: sleeps the pauses.
        chance: draws them.
        before_again: told of each failure that is followed by another try.

    Raises:
        Whatever the last try raised. When the pause would outlast the deadline, that is this one.
    """
    failures = 0
    while True:
        try:
            return await attempt()
        except Exception as error:
            failures += 1
            pause_ms = backoff.pause_ms(failures, chance)
            if failures >= backoff.tries or not on(error) or pause_ms >= remaining_ms():
                raise
        before_again()
        await clock.sleep_ms(pause_ms)
