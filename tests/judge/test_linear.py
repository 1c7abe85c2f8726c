"""Linearizability of a counter, held against a search of all orders."""

import math
from itertools import permutations
from random import Random

import pytest

from labshop.judge.checker import check
from labshop.judge.history import History, Operation, Sale
from labshop.judge.linear import LINEARIZABLE
from labshop.judge.search import Step, first_unexplained


def explained(steps: list[Step], stock: int) -> bool:
    """Whether some order of effects explains every step: all orders are tried."""
    optional = [step for step in steps if math.isinf(step.by_ms)]
    needed = [step for step in steps if not math.isinf(step.by_ms)]
    for chosen in range(2 ** len(optional)):
        some = needed + [s for n, s in enumerate(optional) if chosen >> n & 1]
        if any(_fits(order, stock) for order in permutations(some)):
            return True
    return False


def _fits(order: tuple[Step, ...], stock: int) -> bool:
    latest_ms = -math.inf
    for step in order:
        if step.by_ms < latest_ms or not step.fits(stock):
            return False
        latest_ms = max(latest_ms, step.from_ms)
        stock += step.delta
    return True


def random_steps(chance: Random) -> list[Step]:
    """A few steps on a short line of time, with ties, and with or without an explanation."""
    steps = []
    for _ in range(chance.randint(1, 6)):
        begin = float(chance.randint(0, 6))
        end = begin + chance.randint(0, 4)
        delta = chance.choice((0, 0, 0, -1, -1, -2, 1, 2))
        if not delta:
            seen = chance.randint(0, 4)
            least = -math.inf if chance.random() < 0.3 else seen
            steps.append(Step(begin, end, 0, least, seen, ()))
        else:
            by_ms = math.inf if chance.random() < 0.3 else end
            steps.append(Step(begin, by_ms, delta, max(-delta, 0), math.inf, ()))
    return sorted(steps, key=lambda step: step.from_ms)


def test_the_search_agrees_with_all_orders() -> None:
    """On small random histories, the search and the trying of all orders say the same."""
    chance, said = Random(1), {True: 0, False: 0}
    for _ in range(1_500):
        steps, stock = random_steps(chance), chance.randint(0, 4)
        expected = explained(steps, stock)
        assert (first_unexplained(steps, stock) is None) == expected, (steps, stock)
        said[expected] += 1
    assert min(said.values()) > 300


def buy(number: str, begin: float, end: float | None, outcome: str = "ok") -> Operation:
    told = {"order": number} if outcome == "ok" else {}
    args = {"user": number, "lines": {"1": 1}}
    return Operation(number, f"p{number}", "buy", args, begin, end, outcome, told)  # type: ignore[arg-type]


def read(number: str, begin: float, end: float, left: int, place: str | None = None) -> Operation:
    args = {"product": 1} | ({"place": place} if place else {})
    return Operation(number, f"p{number}", "read", args, begin, end, "ok", {"left": left})


@pytest.mark.parametrize("outcome", ["ok", "unknown"])
def test_a_counter_does_not_go_back(outcome: str) -> None:
    """While a buy is open, reads of 4 and then 5 contradict each other; 5 and then 4 do not."""
    open_buy = buy("b", 0.0, 10.0, outcome)
    back = (open_buy, read("r", 1.0, 2.0, 4), read("s", 3.0, 4.0, 5))
    [violation] = check(History(Sale({1: 5}), back), [LINEARIZABLE]).violations
    assert violation.reason == (
        "ps saw 5 units of product 1 unsold; in every order of effects that explains what was "
        "seen before, exactly 4 were left"
    )
    assert violation.witness.operations == back[1:]
    assert violation.witness.sale == Sale({1: 4})
    forth = (open_buy, read("r", 1.0, 2.0, 5), read("s", 3.0, 4.0, 4))
    assert check(History(Sale({1: 5}), forth), [LINEARIZABLE]).outcome == "VALID"


def test_reads_that_overlap_may_contradict() -> None:
    """The same reads of 4 and 5 have an order when they overlap, or are of two places."""
    at_once = (buy("b", 0.0, 10.0), read("r", 1.0, 3.0, 4), read("s", 2.0, 4.0, 5))
    assert check(History(Sale({1: 5}), at_once), [LINEARIZABLE]).outcome == "VALID"
    places = (buy("b", 0.0, 10.0), read("r", 1.0, 2.0, 4, "gate"), read("s", 3.0, 4.0, 5, "ledger"))
    assert check(History(Sale({1: 5}), places), [LINEARIZABLE]).outcome == "VALID"


def test_a_far_contradiction_is_found_and_made_small() -> None:
    """What an unknown buy was seen to do stays true, thousands of operations later."""
    many = [read(f"m{n}", 10.0 + n, 10.5 + n, 4) for n in range(8_000)]
    late = read("late", 9_000.0, 9_001.0, 5)
    history = History(Sale({1: 5}), (buy("b", 0.0, 1.0, "unknown"), *many, late))
    [violation] = check(history, [LINEARIZABLE]).violations
    assert violation.culprits == ("late",)
    assert len(violation.witness) == 2
    assert check(violation.witness, [LINEARIZABLE]).broken == (LINEARIZABLE,)
    agreeing = History(history.sale, (*history.operations[:-1], read("late", 9_000.0, 9_001.0, 4)))
    assert check(agreeing, [LINEARIZABLE]).outcome == "VALID"
