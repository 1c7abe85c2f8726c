"""Trying again: how often, how long after, and when not."""

import random
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labshop.resilience import Backoff, deadline_in_ms, retry
from tests.resilience.conftest import OwnedClock


class Lost(Exception):
    """Worth another try."""


class Refused(Exception):
    """An answer."""


class Work:
    """Fails so many times, and then gives the number of the try."""

    def __init__(self, failures: int, error: type[BaseException] = Lost) -> None:
        self.failures = failures
        self.error = error
        self.tries = 0

    async def __call__(self) -> int:
        self.tries += 1
        if self.tries <= self.failures:
            raise self.error
        return self.tries


async def attempt(work: Work, clock: OwnedClock, backoff: Backoff, seed: int = 1) -> int:
    return await retry(
        work,
        on=lambda error: isinstance(error, Lost),
        backoff=backoff,
        clock=clock,
        chance=random.Random(seed),
    )


async def test_it_tries_until_it_succeeds(clock: OwnedClock) -> None:
    """Two failures, then a success: three tries and two pauses."""
    assert await attempt(Work(2), clock, Backoff(tries=5)) == 3
    assert len(clock.slept_ms) == 2


async def test_it_gives_up_after_its_tries(clock: OwnedClock) -> None:
    """The last failure is told; there is no pause after it."""
    work = Work(99)
    with pytest.raises(Lost):
        await attempt(work, clock, Backoff(tries=4))
    assert (work.tries, len(clock.slept_ms)) == (4, 3)


@pytest.mark.parametrize("error", [Refused, KeyboardInterrupt])
async def test_an_answer_is_not_asked_for_again(
    clock: OwnedClock, error: type[BaseException]
) -> None:
    """An error that is not worth it is told at once, and so is what is no `Exception`."""
    work = Work(1, error)
    with pytest.raises(error):
        await attempt(work, clock, Backoff(tries=4))
    assert (work.tries, clock.slept_ms) == (1, [])


async def test_the_deadline_ends_it(clock: OwnedClock) -> None:
    """No pause outlasts the deadline: the last error is told while there is time left."""
    work = Work(99)
    with deadline_in_ms(1_000, clock), pytest.raises(Lost):
        await attempt(work, clock, Backoff(tries=1_000, first_ms=400, longest_ms=400))
    assert 2 <= work.tries < 20
    assert sum(clock.slept_ms) < 1_000


@given(failures=st.integers(1, 5_000), seed=st.integers(0, 2**32))
def test_a_pause_is_drawn_below_a_bound_that_doubles(failures: int, seed: int) -> None:
    """Full jitter: anything from nothing to the bound, which ends at the longest."""
    pause_ms = Backoff(first_ms=10, longest_ms=640).pause_ms(failures, random.Random(seed))
    assert 0 <= pause_ms <= min(640, 10 * 2 ** min(failures - 1, 6))


def test_a_crowd_spreads_out() -> None:
    """A thousand who fail together come back evenly over the whole pause.

    The control: without jitter all thousand come back in the same millisecond.
    """
    backoff, chance = Backoff(first_ms=100), random.Random(7)
    back = [backoff.pause_ms(1, chance) for _ in range(1_000)]
    tenths = [sum(1 for ms in back if ms // 10 == tenth) for tenth in range(10)]
    assert min(tenths) > 60
    assert max(tenths) < 140

    class NoJitter(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    assert {backoff.pause_ms(1, NoJitter()) for _ in range(1_000)} == {100}


def test_the_bound_is_drawn_from_the_first_to_the_longest() -> None:
    """10, 20, 40, 80, and then no more than 100."""

    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    backoff = Backoff(first_ms=10, longest_ms=100)
    pauses = [backoff.pause_ms(failures, Highest()) for failures, _ in zip(count(1), range(6))]
    assert pauses == [10, 20, 40, 80, 100, 100]
