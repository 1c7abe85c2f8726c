"""A breaker under any order of calls, ends, cancellations and time, as hypothesis finds them."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from labshop.resilience import BreakerOpen, BreakerState, CircuitBreaker
from tests.resilience.conftest import OwnedClock, turns
from tests.resilience.test_breaker import CancelledIsSuccess, CountingAll, Down, HerdBreaker

THRESHOLD, RECOVERY_MS = 3, 100


@dataclass(eq=False)
class Call:
    """A call under way: in which period it began, and the answer that it waits for."""

    period: int
    answer: "asyncio.Future[None]"
    task: "asyncio.Task[None]"


class Breaker(RuleBasedStateMachine):
    """What a breaker may do is said here once more, from the outside."""

    kind: type[CircuitBreaker] = CircuitBreaker

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = OwnedClock()
        self.changes: list[BreakerState] = []
        self.breaker = self.kind(
            "ledger",
            failure_threshold=THRESHOLD,
            recovery_ms=RECOVERY_MS,
            clock=self.clock,
            on_change=lambda _, state: self.changes.append(state),
        )
        self.calls: list[Call] = []
        self.row = 0
        self.opened_ms = 0.0

    def teardown(self) -> None:
        for call in self.calls:
            call.task.cancel()
        self.loop.run_until_complete(turns())
        self.loop.close()

    @property
    def state(self) -> BreakerState:
        return self.changes[-1] if self.changes else "closed"

    @rule()
    def come(self) -> None:
        """Somebody calls: let in when closed, or as the probe when it is time; else refused."""
        before, answer = self.state, self.loop.create_future()

        async def ask() -> None:
            await self.breaker.call(lambda: answer)

        task = self.loop.create_task(ask())
        self.loop.run_until_complete(turns())
        if not task.done():
            self.calls.append(Call(len(self.changes), answer, task))
        is_due = before == "open" and self.clock.ms >= self.opened_ms + RECOVERY_MS
        assert task.done() != (before == "closed" or is_due)
        if task.done():
            assert isinstance(task.exception(), BreakerOpen)
            assert self.state == before
        else:
            assert self.state == ("half_open" if is_due else "closed")

    @rule(data=st.data(), end=st.sampled_from(["well", "down", "cancelled"]))
    def end(self, data: st.DataObject, end: str) -> None:
        """A call ends; only one that began in this period may change anything."""
        if not self.calls:
            return
        call = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        before, counts = self.state, call.period == len(self.changes)
        if end == "well":
            call.answer.set_result(None)
        elif end == "down":
            call.answer.set_exception(Down())
        else:
            call.task.cancel()
        self.loop.run_until_complete(asyncio.wait((call.task,)))
        if not call.task.cancelled():
            call.task.exception()
        assert self.state == (self.expected(before, end) if counts else before)

    def expected(self, before: BreakerState, end: str) -> BreakerState:
        """The state after an end that counts."""
        if end == "cancelled":
            return "open" if before == "half_open" else before
        self.row = self.row + 1 if end == "down" else 0
        if end == "well":
            return "closed"
        if before == "half_open" or self.row >= THRESHOLD:
            self.row, self.opened_ms = 0, self.clock.ms
            return "open"
        return before

    @rule(ms=st.sampled_from([1, RECOVERY_MS - 1, RECOVERY_MS]))
    def wait(self, ms: int) -> None:
        """Time goes by; by itself it changes nothing."""
        self.clock.ms += ms

    @invariant()
    def one_probe(self) -> None:
        """Half open there is exactly one call of this period, at all other times any number."""
        if self.state == "half_open":
            assert sum(call.period == len(self.changes) for call in self.calls) == 1


def test_whatever_happens_to_it() -> None:
    """It opens, probes and closes as it should, in any order of events."""
    run_state_machine_as_test(Breaker, settings=settings(max_examples=60, deadline=None))


@pytest.mark.parametrize("kind", [HerdBreaker, CountingAll, CancelledIsSuccess])
def test_control_each_broken_one_is_found(kind: type[CircuitBreaker]) -> None:
    """Each breaker without one of the protections is told apart from ours."""
    machine = type("Broken", (Breaker,), {"kind": kind})
    found = settings(
        max_examples=1_000,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],  # that it is found is enough; the smallest case is not needed
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=found)
