"""A token bucket for each user."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labshop.resilience import TokenBuckets
from tests.resilience.conftest import OwnedClock


def test_a_burst_and_then_a_steady_rate(clock: OwnedClock) -> None:
    """Five at once, and then two a second; it says to the millisecond when."""
    buckets = TokenBuckets(per_s=2, burst=5, clock=clock)
    assert [buckets.take("ada") for _ in range(6)] == [0, 0, 0, 0, 0, 500]
    clock.ms += 499
    assert buckets.take("ada") == 1
    clock.ms += 1
    assert [buckets.take("ada") for _ in range(2)] == [0, 500]


def test_each_user_has_a_bucket_of_its_own(clock: OwnedClock) -> None:
    """One who has used up its tokens does not cost another any."""
    buckets = TokenBuckets(per_s=1, burst=1, clock=clock)
    assert (buckets.take("ada"), buckets.take("ada"), buckets.take("bob")) == (0, 1_000, 0)


def test_a_bucket_never_holds_more_than_its_burst(clock: OwnedClock) -> None:
    """After a day of rest there are three tokens, not a day's."""
    buckets = TokenBuckets(per_s=1, burst=3, clock=clock)
    buckets.take("ada")
    clock.ms += 86_400_000
    assert [buckets.take("ada") for _ in range(4)] == [0, 0, 0, 1_000]


def test_a_million_names_take_bounded_room(clock: OwnedClock) -> None:
    """Only so many buckets are kept; the one that is in use is not the one that goes."""
    buckets = TokenBuckets(per_s=1, burst=2, size=100, clock=clock)
    for number in range(10_000):
        clock.ms += 20
        buckets.take(f"user {number}")
        if number % 50 == 0:
            buckets.take("ada")
    assert len(buckets) == 100
    assert buckets.take("ada") == 0
    assert buckets.take("ada") > 0


@given(
    per_s=st.floats(0.1, 1_000),
    burst=st.integers(1, 20),
    waits=st.lists(st.one_of(st.none(), st.floats(0, 5_000)), max_size=60),
)
def test_in_any_stretch_of_time_no_more_than_burst_and_rate(
    per_s: float, burst: int, waits: list[float | None]
) -> None:
    """However somebody asks, it gets no more than that; and who waits as told gets a token."""
    clock = OwnedClock()
    buckets = TokenBuckets(per_s=per_s, burst=burst, clock=clock)
    taken_ms: list[float] = []
    for wait in waits:
        retry_after_ms = buckets.take("ada")
        if not retry_after_ms:
            taken_ms.append(clock.ms)
        # None waits for exactly as long as it was told.
        clock.ms += retry_after_ms if wait is None else wait
        if wait is None and retry_after_ms:
            assert buckets.take("ada") == 0
            taken_ms.append(clock.ms)
    for first, since_ms in enumerate(taken_ms):
        for last, until_ms in enumerate(taken_ms[first:], start=first):
            allowed = burst + (until_ms - since_ms) * per_s / 1_000
            assert last - first + 1 <= allowed + 0.01


@pytest.mark.parametrize(("per_s", "burst", "size"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_one_that_gives_nothing_is_refused(per_s: float, burst: int, size: int) -> None:
    """A rate, a burst or a size of nought is a mistake, and said to be one."""
    with pytest.raises(ValueError, match="a bucket gains"):
        TokenBuckets(per_s=per_s, burst=burst, size=size)
