"""The judge as a whole: it never accuses a sound history, and finds what is planted in one."""

import time
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labshop.judge.checker import check
from labshop.judge.history import FaultRecord, History, Operation, Sale
from labshop.judge.lines import read_history, write_history
from tests.judge import mutations
from tests.judge.mutations import Mutation
from tests.judge.sound import SoundShop, sound_history, sound_leases

PLANTED: list[tuple[Mutation, str]] = [
    (mutations.shift_a_read, "conservation"),
    (mutations.shift_the_units_sold, "conservation"),
    (mutations.drop_a_unit, "conservation"),
    (mutations.refuse_wrongly, "no-undersell"),
    (mutations.send_away, "no-undersell"),
    (mutations.forget_an_order, "durable-orders"),
    (mutations.book_twice, "idempotency"),
    (mutations.split_a_bundle, "all-or-nothing"),
    (mutations.book_the_refused, "all-or-nothing"),
    (mutations.give_two_orders_for_a_key, "idempotency"),
    (mutations.give_one_order_to_two, "idempotency"),
    (mutations.book_for_another, "idempotency"),
    (mutations.swap_the_sums, "conservation"),
    (mutations.lower_the_limit, "limit-per-user"),
    (mutations.overlap_leases, "exclusive-leases"),
    (mutations.repeat_a_fence, "no-stale-fence"),
    (mutations.write_with_an_old_fence, "no-stale-fence"),
]


@pytest.fixture(scope="module")
def large() -> History:
    """Twenty thousand operations of eight clients, without a fault."""
    stock = {1: 3_000, 2: 40, 3: 30_000}
    shop = SoundShop(Random(1), stock, clients=8, loss=0.0, audits=0.02)
    return replace(shop.run(20_000), locks=sound_leases(1, 2_000, 8))


def test_a_large_sound_history_is_judged_in_seconds(large: History) -> None:
    """Twenty thousand operations of eight clients are valid, and judged within 30 s at worst."""
    began_s = time.monotonic()
    verdict = check(large)
    assert verdict.outcome == "VALID", verdict
    assert time.monotonic() - began_s < 30


@pytest.mark.parametrize(("mutate", "broken"), PLANTED, ids=lambda it: getattr(it, "__name__", it))
def test_what_is_planted_is_found_and_made_small(
    large: History, mutate: Mutation, broken: str
) -> None:
    """One violation among twenty thousand operations is found, in at most ten operations."""
    verdict = check(mutate(large, Random(5)))
    assert broken in verdict.broken, verdict
    for violation in verdict.violations:
        assert len(violation.witness) <= 10
        assert violation.property in check(violation.witness).broken
        assert read_history(write_history(violation.witness)) == violation.witness


@settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), clients=st.integers(1, 7))
def test_a_sound_history_is_never_accused(seed: int, count: int, clients: int) -> None:
    """Whatever a correct shop answers, under loss, retries and cancellations: no accusation."""
    history = replace(sound_history(seed, count, clients), locks=sound_leases(seed, 8))
    verdict = check(history)
    assert verdict.outcome == "VALID", verdict
    assert check(read_history(write_history(history))) == verdict


@settings(max_examples=60, derandomize=True, deadline=None)
@given(seed=st.integers(0, 2**32), cut=st.integers(1, 30))
def test_a_sound_history_that_ends_in_mid_sale_is_never_accused(seed: int, cut: int) -> None:
    """Where the recording was killed, what was under way is unknown, and nobody is accused."""
    whole = sound_history(seed, 30)
    cut_ms = sorted(operation.invoked_ms for operation in whole.operations)[cut]
    begun = [o for o in whole.operations if o.invoked_ms <= cut_ms]
    cut_off = [
        o
        if o.ended_ms is not None and o.ended_ms <= cut_ms
        else replace(o, ended_ms=None, outcome="unknown", result={})
        for o in begun
    ]
    verdict = check(replace(whole, operations=tuple(cut_off)))
    assert verdict.outcome != "INVALID", verdict


def test_a_thousand_buyers_at_once_are_judged() -> None:
    """All of a thousand requests overlap: the order does not matter, and is not searched."""
    told = [
        ("ok", {"order": f"o{n}"}) if n < 100 else ("fail", {"error": "SoldOut"})
        for n in range(1000)
    ]
    buys = tuple(
        Operation(str(n), f"p{n}", "buy", {"user": n, "lines": {"1": 1}}, 0.0, 9.0 + n, *told[n])  # type: ignore[arg-type]
        for n in range(1000)
    )
    began_s = time.monotonic()
    assert check(History(Sale({1: 100}), buys)).outcome == "VALID"
    assert check(History(Sale({1: 99}), buys)).broken[0] == "no-oversell"
    assert time.monotonic() - began_s < 20


def test_two_hundred_unknown_operations_do_not_take_for_ever() -> None:
    """What cannot be searched in bounded time is undecided, and nobody is accused."""
    chance = Random(1)
    buys = [
        Operation(f"u{n}", f"p{n}", "buy", {"lines": {"1": chance.choice((1, 1, 2, 3))}}, n, n + 5)
        for n in range(200)
    ]
    left, reads = 1_000, []
    for n in range(300):
        left -= chance.choice((0, 1, 2)) if n % 3 == 0 else 0
        reads.append(
            Operation(
                f"r{n}", "q", "read", {"product": 1}, 300 + n, 300.5 + n, "ok", {"left": left}
            )
        )
    faults = (FaultRecord("lossy", "network", 0.0),)
    verdict = check(History(Sale({1: 1_000}), (*buys, *reads), (), faults))
    assert verdict.outcome == "UNKNOWN"
    assert verdict.reason == "linearizable-stock: more than 1000000 orders of effects are possible"


def test_a_product_that_nobody_counted_is_not_judged_valid() -> None:
    """Without the stock of a product that was sold, the verdict is unknown."""
    buy = Operation("1", "ann", "buy", {"lines": {"7": 1}}, 0.0, 1.0, "ok", {"order": "o"})
    verdict = check(History(operations=(buy,)))
    assert str(verdict) == "UNKNOWN: the sale does not say how many units of product 7 there were"
    assert check(History(Sale({7: 1}), (buy,))).outcome == "VALID"


def test_a_ledger_that_could_not_be_read_proves_nothing() -> None:
    """A failed audit makes the verdict unknown, unless another one succeeded."""
    failed = Operation("1", "ann", "audit", {}, 0.0, 1.0, "fail", {"error": "Unavailable"})
    read = Operation("2", "ann", "audit", {}, 2.0, 3.0, "ok", {"left": {"1": 5}, "orders": []})
    verdict = check(History(Sale({1: 5}), (failed,)))
    assert str(verdict) == "UNKNOWN: the ledger could not be read: Unavailable"
    assert check(History(Sale({1: 5}), (failed, read))).outcome == "VALID"


def test_fairness_is_measured_and_accuses_nobody() -> None:
    """Whoever was overtaken by two is counted; first in, first out is zero."""

    def buys(ends: list[float]) -> History:
        asked = enumerate(ends)
        return History(
            Sale({1: 9}),
            tuple(
                Operation(
                    str(n), f"p{n}", "buy", {"lines": {"1": 1}}, n, end, "ok", {"order": str(n)}
                )
                for n, end in asked
            ),
        )

    assert check(buys([9.0, 7.0, 8.0])).measures == {"overtaken at most": 2.0}
    assert check(buys([7.0, 8.0, 9.0])).measures == {"overtaken at most": 0.0}


def test_an_unknown_property_is_refused() -> None:
    """A name that is misspelt checks nothing, so it is an error."""
    with pytest.raises(ValueError, match="no such property: fairness"):
        check(History(), ["fairness"])
