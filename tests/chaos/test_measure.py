"""Recovery and availability are counted right, on histories that were made by hand."""

import pytest

from labshop.judge.history import History, Operation, OperationOutcome
from labshop.lab.chaos.deck import Kind
from labshop.lab.chaos.measure import (
    Share,
    Spell,
    availability,
    percentile,
    recovery_s,
    resampled,
)

KILLED = Kind("killed", "primary")


def probe(
    number: int, api: str, sent_ms: float, took_ms: float, outcome: OperationOutcome = "ok"
) -> Operation:
    name = f"probe {number} at {api}"
    return Operation(f"{name}, {sent_ms}", name, "buy", {}, sent_ms, sent_ms + took_ms, outcome)


def spell(struck_ms: float, lifted_ms: float) -> Spell:
    return Spell(KILLED, "primary", struck_ms, lifted_ms)


def test_recovery_ends_when_the_last_api_serves() -> None:
    """What counts is the first receipt of each API that was asked for after the fault."""
    history = History(
        operations=(
            probe(1, "API 1", 900, 200),
            probe(2, "API 1", 1_100, 50),
            probe(1, "API 2", 1_100, 50, "fail"),
            probe(1, "API 2", 1_900, 100),
        )
    )
    fault = spell(500, 1_000)

    assert recovery_s(fault, history, ["API 1"]) == pytest.approx(0.15)
    assert recovery_s(fault, history, ["API 1", "API 2"]) == pytest.approx(1.0)


def test_another_fault_excuses_nothing() -> None:
    """Time under a second fault counts too: faults overlap, and buyers wait all the same."""
    first, second = spell(0, 1_000), spell(1_400, 3_000)
    history = History(operations=(probe(1, "API 1", 3_200, 50),))

    assert recovery_s(first, history, ["API 1"]) == pytest.approx(2.25)
    assert recovery_s(second, history, ["API 1"]) == pytest.approx(0.25)


@pytest.mark.parametrize("served", [(), (probe(1, "API 1", 31_000, 100),)])
def test_what_comes_too_late_is_no_recovery(served: tuple[Operation, ...]) -> None:
    """No receipt, or one after half a minute, is no recovery."""
    fault = spell(0, 1_000)

    assert recovery_s(fault, History(operations=served), ["API 1"]) is None


def test_availability_counts_each_probe_once() -> None:
    """Served is who got a receipt within two seconds, at the first attempt."""
    history = History(
        operations=(
            probe(1, "API 1", 100, 50),
            probe(2, "API 1", 1_100, 50, "fail"),
            probe(2, "API 1", 1_300, 50),
            probe(3, "API 2", 1_500, 2_500),
            probe(4, "API 2", 5_000, 100, "unknown"),
        )
    )

    inside, outside = availability(history, [spell(1_000, 2_000)])

    assert (inside, outside) == (Share(2, 0), Share(2, 1))


def test_intervals_hold_what_they_should() -> None:
    """Wilson's is the one in the books; drawing sales anew is wider when failures cluster."""
    low, high = Share(200, 200).wilson()
    assert (round(low, 4), high) == (0.9812, 1.0)

    even = resampled([Share(100, 90)] * 20)
    uneven = resampled([Share(100, 100)] * 18 + [Share(100, 0)] * 2)
    assert even == (0.9, 0.9)
    assert uneven[0] < 0.8
    assert uneven[1] > 0.95


def test_percentiles_are_values_that_were_seen() -> None:
    """The nearest rank, and 0 where nothing was measured."""
    values = [float(n) for n in range(1, 101)]

    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert percentile([], 0.5) == 0.0
