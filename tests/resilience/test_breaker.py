"""A breaker: what opens it, what closes it, and that one at a time tries."""

import asyncio
from collections import Counter

import pytest

from labshop.resilience import BreakerOpen, BreakerState, CircuitBreaker
from tests.resilience.conftest import OwnedClock, turns

THRESHOLD, RECOVERY_MS = 5, 60_000


class Down(Exception):
    """The dependency is away."""


class SoldOut(Exception):
    """The dependency is well, and says no."""


class Dependency:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[str]] = []

    async def ask(self) -> str:
        self.calls.append(asyncio.get_running_loop().create_future())
        return await self.calls[-1]


class HerdBreaker(CircuitBreaker):
    """The control: half open, it lets everybody through, as the roadmap's sample does."""

    def retry_after_ms(self) -> float:
        return 0.0 if self.state == "half_open" else super().retry_after_ms()


class CountingAll(CircuitBreaker):
    """The control: an answer counts whenever it comes."""

    def _counts(self, begun: int) -> bool:
        return True


class CancelledIsSuccess(CircuitBreaker):
    """The control: whoever was cancelled has not failed, so it must be well again."""

    def _give_back(self) -> None:
        self._succeed()


def make(clock: OwnedClock, kind: type[CircuitBreaker] = CircuitBreaker) -> CircuitBreaker:
    return kind(
        "ledger",
        failure_threshold=THRESHOLD,
        recovery_ms=RECOVERY_MS,
        is_failure=lambda error: isinstance(error, Down),
        clock=clock,
    )


def state_of(breaker: CircuitBreaker) -> BreakerState:
    """Its state at this moment; mypy would take an attribute's last value for granted."""
    return breaker.state


async def fail(breaker: CircuitBreaker, error: Exception, times: int = 1) -> None:
    async def raise_it() -> None:
        raise error

    for _ in range(times):
        with pytest.raises(type(error)):
            await breaker.call(raise_it)


async def succeed(breaker: CircuitBreaker) -> None:
    async def answer() -> str:
        return "well"

    assert await breaker.call(answer) == "well"


async def open_and_wait(breaker: CircuitBreaker, clock: OwnedClock) -> None:
    """Open it, and let its recovery time pass."""
    await fail(breaker, Down(), THRESHOLD)
    assert state_of(breaker) == "open"
    clock.ms += RECOVERY_MS


async def test_it_opens_after_failures_in_a_row_and_refuses_without_a_call(
    clock: OwnedClock,
) -> None:
    """Five failures in a row open it; then nothing is called, and it says for how long."""
    breaker, dependency = make(clock), Dependency()
    await fail(breaker, Down(), THRESHOLD - 1)
    assert state_of(breaker) == "closed"
    await fail(breaker, Down())
    assert state_of(breaker) == "open"

    clock.ms += 20_000
    with pytest.raises(BreakerOpen) as refusal:
        await breaker.call(dependency.ask)
    assert (refusal.value.name, refusal.value.retry_after_ms) == ("ledger", 40_000)
    assert dependency.calls == []


async def test_a_success_ends_the_row(clock: OwnedClock) -> None:
    """Four failures, a success and four failures leave it closed."""
    breaker = make(clock)
    for _ in range(2):
        await fail(breaker, Down(), THRESHOLD - 1)
        await succeed(breaker)
    assert state_of(breaker) == "closed"


async def test_a_refusal_of_the_business_is_an_answer(clock: OwnedClock) -> None:
    """A hundred times "sold out" do not open it; as a probe, "sold out" closes it."""
    breaker = make(clock)
    await fail(breaker, SoldOut(), 100)
    assert state_of(breaker) == "closed"

    await open_and_wait(breaker, clock)
    await fail(breaker, SoldOut())
    assert state_of(breaker) == "closed"


async def test_control_who_counts_every_error_shuts_the_shop_when_it_is_sold_out(
    clock: OwnedClock,
) -> None:
    """Without the predicate, five times "sold out" open it: the roadmap's sample."""
    breaker = CircuitBreaker("ledger", failure_threshold=THRESHOLD, clock=clock)
    await fail(breaker, SoldOut(), THRESHOLD)
    assert state_of(breaker) == "open"


@pytest.mark.parametrize(("kind", "probes"), [(CircuitBreaker, 1), (HerdBreaker, 50)])
async def test_fifty_callers_send_one_probe(
    clock: OwnedClock, kind: type[CircuitBreaker], probes: int
) -> None:
    """Of fifty who come in the same moment, one is the probe; the control lets all fifty through.

    While it waits for its answer, the others are refused; when it has it, all come in.
    """
    breaker, dependency = make(clock, kind), Dependency()
    await open_and_wait(breaker, clock)
    callers = [asyncio.create_task(breaker.call(dependency.ask)) for _ in range(50)]
    await turns()

    assert state_of(breaker) == "half_open"
    assert len(dependency.calls) == probes
    for call in dependency.calls:
        call.set_result("well")
    ends = await asyncio.gather(*callers, return_exceptions=True)
    told = Counter("well" if end == "well" else type(end).__name__ for end in ends)
    assert told == Counter({"well": probes, "BreakerOpen": 50 - probes})
    assert state_of(breaker) == "closed"
    await succeed(breaker)


async def test_a_failed_probe_opens_it_for_another_while(clock: OwnedClock) -> None:
    """One failure is enough when it is half open, and the whole recovery time begins anew."""
    breaker = make(clock)
    await open_and_wait(breaker, clock)
    await fail(breaker, Down())
    assert state_of(breaker) == "open"
    assert breaker.retry_after_ms() == RECOVERY_MS


@pytest.mark.parametrize(
    ("kind", "state"), [(CircuitBreaker, "open"), (CancelledIsSuccess, "closed")]
)
async def test_a_cancelled_probe_is_given_back(
    clock: OwnedClock, kind: type[CircuitBreaker], state: BreakerState
) -> None:
    """It neither closes the breaker nor makes it wait anew: the next caller is the probe.

    The control closes on it, and the crowd meets a dependency of which nothing is known.
    """
    breaker, dependency = make(clock, kind), Dependency()
    await open_and_wait(breaker, clock)
    probe = asyncio.create_task(breaker.call(dependency.ask))
    await turns()
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)

    assert state_of(breaker) == state
    if kind is CircuitBreaker:
        assert breaker.retry_after_ms() == 0
        second = asyncio.create_task(breaker.call(dependency.ask))
        third = asyncio.create_task(breaker.call(dependency.ask))
        await turns()
        assert state_of(breaker) == "half_open"
        dependency.calls[-1].set_result("well")
        assert await second == "well"
        with pytest.raises(BreakerOpen):
            await third
        assert state_of(breaker) == "closed"


async def test_a_cancelled_call_is_neither_success_nor_failure(clock: OwnedClock) -> None:
    """Among failures in a row, a cancelled call does not count, and does not end the row."""
    breaker, dependency = make(clock), Dependency()
    await fail(breaker, Down(), THRESHOLD - 1)
    calls = [asyncio.create_task(breaker.call(dependency.ask)) for _ in range(THRESHOLD)]
    await turns()
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert state_of(breaker) == "closed"
    await fail(breaker, Down())
    assert state_of(breaker) == "open"


@pytest.mark.parametrize(
    ("kind", "state"), [(CircuitBreaker, "half_open"), (CountingAll, "closed")]
)
async def test_a_late_answer_of_a_call_that_began_before_does_not_close_it(
    clock: OwnedClock, kind: type[CircuitBreaker], state: BreakerState
) -> None:
    """A call from before the outage is answered while the probe is out: the probe decides.

    The control takes that answer for the probe's.
    """
    breaker, dependency = make(clock, kind), Dependency()
    old = asyncio.create_task(breaker.call(dependency.ask))
    await turns()
    await open_and_wait(breaker, clock)
    probe = asyncio.create_task(breaker.call(dependency.ask))
    await turns()
    assert state_of(breaker) == "half_open"

    dependency.calls[0].set_result("from before")
    assert await old == "from before"
    assert state_of(breaker) == state
    dependency.calls[1].set_exception(Down())
    await asyncio.gather(probe, return_exceptions=True)
    assert state_of(breaker) == ("open" if kind is CircuitBreaker else "closed")


@pytest.mark.parametrize(("kind", "state"), [(CircuitBreaker, "closed"), (CountingAll, "open")])
async def test_late_failures_do_not_open_one_that_has_closed_since(
    clock: OwnedClock, kind: type[CircuitBreaker], state: BreakerState
) -> None:
    """Calls from before the outage time out after the recovery: they are of the last outage."""
    breaker, dependency = make(clock, kind), Dependency()
    old = [asyncio.create_task(breaker.call(dependency.ask)) for _ in range(THRESHOLD)]
    await turns()
    await open_and_wait(breaker, clock)
    await succeed(breaker)
    assert state_of(breaker) == "closed"
    for call in dependency.calls:
        call.set_exception(Down())
    await asyncio.gather(*old, return_exceptions=True)
    assert state_of(breaker) == state


async def test_it_tells_of_each_change_once(clock: OwnedClock) -> None:
    """Its hook hears open, half open and closed, in order, with the name."""
    told: list[tuple[str, BreakerState]] = []
    breaker = CircuitBreaker(
        "gate",
        failure_threshold=2,
        recovery_ms=10,
        clock=clock,
        on_change=lambda name, state: told.append((name, state)),
    )
    await fail(breaker, Down(), 2)
    clock.ms += 10
    await fail(breaker, Down())
    clock.ms += 10
    await succeed(breaker)
    states = ["open", "half_open", "open", "half_open", "closed"]
    assert told == [("gate", state) for state in states]


async def test_calls_within_calls_of_one_task(clock: OwnedClock) -> None:
    """A call that began before the breaker opened, in the same task, does not close it."""
    breaker = make(clock)
    await breaker.call(fail, breaker, Down(), THRESHOLD)
    assert state_of(breaker) == "open"


async def test_it_counts_what_it_does(clock: OwnedClock) -> None:
    """How often it opened, and how many calls it refused; arguments reach the step."""
    breaker = make(clock)
    await fail(breaker, Down(), THRESHOLD)
    for _ in range(3):
        with pytest.raises(BreakerOpen):
            await succeed(breaker)
    clock.ms += RECOVERY_MS

    async def add(a: int, *, b: int) -> int:
        return a + b

    assert await breaker.call(add, 1, b=2) == 3
    assert (breaker.opened, breaker.refused) == (1, 3)


def test_one_that_needs_no_failure_is_refused() -> None:
    """A threshold of nought is a mistake, and said to be one."""
    with pytest.raises(ValueError, match="a failure to open"):
        CircuitBreaker("gate", failure_threshold=0)
