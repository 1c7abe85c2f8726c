"""A deadline that travels with the work."""

import asyncio
import math

import pytest

from labshop.resilience import (
    DeadlineExceeded,
    check_deadline,
    deadline_in_ms,
    remaining_ms,
    until_deadline,
)
from tests.resilience.conftest import OwnedClock


def test_it_runs_down_and_ends_with_its_body(clock: OwnedClock) -> None:
    """What remains shrinks with time, is negative afterwards, and infinite without a deadline."""
    assert remaining_ms() == math.inf
    with deadline_in_ms(500, clock):
        assert remaining_ms() == 500
        clock.ms += 200
        check_deadline()
        assert remaining_ms() == 300
        clock.ms += 310
        assert remaining_ms() == -10
        with pytest.raises(DeadlineExceeded) as refusal:
            check_deadline()
        assert refusal.value.late_ms == 10
    assert remaining_ms() == math.inf
    check_deadline()


def test_an_inner_one_only_shortens(clock: OwnedClock) -> None:
    """A shorter one inside holds for its body; a longer one changes nothing."""
    with deadline_in_ms(500, clock):
        with deadline_in_ms(100, clock):
            assert remaining_ms() == 100
        assert remaining_ms() == 500
        with deadline_in_ms(9_000, clock):
            assert remaining_ms() == 500


async def test_it_travels_into_tasks_and_not_into_others(clock: OwnedClock) -> None:
    """A task that is started within the body has it; one that was started before has not."""
    may_look = asyncio.Event()

    async def look() -> float:
        await may_look.wait()
        return remaining_ms()

    before = asyncio.create_task(look())
    with deadline_in_ms(500, clock):
        within = asyncio.create_task(look())
    may_look.set()
    assert (await before, await within) == (math.inf, 500)


async def test_waiting_is_cut_off_at_the_deadline() -> None:
    """Whoever waits for nothing is told so at the deadline, and not before."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    with deadline_in_ms(30), pytest.raises(DeadlineExceeded):
        async with until_deadline():
            await asyncio.Event().wait()
    assert loop.time() - began_s >= 0.025


async def test_a_timeout_of_the_body_stays_what_it_is() -> None:
    """The body's own TimeoutError is not taken for the deadline."""
    with deadline_in_ms(60_000), pytest.raises(TimeoutError, match="of its own"):
        async with until_deadline():
            raise TimeoutError("of its own")


async def test_a_deadline_that_has_passed_lets_nobody_wait(clock: OwnedClock) -> None:
    """The body is not even begun."""
    with deadline_in_ms(0, clock), pytest.raises(DeadlineExceeded):
        async with until_deadline():
            pytest.fail("it was begun")
