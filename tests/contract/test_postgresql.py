"""The contract on PostgreSQL; with --stores postgresql, the whole suite runs there.

See the conftest beside.
"""

import pytest

from labshop.lab.trial import Arena, try_out
from labshop.lab.trial.elsewhere import SERVED_LEDGER
from labshop.lab.trial.run import MakeStrategy
from labshop.lab.trial.scenarios import ALONE, SHOP
from labshop.zoo import answered_too_early
from tests.contract.test_stage import assert_valid

pytestmark = pytest.mark.parametrize("arena", ["postgresql"], indirect=True)


@pytest.mark.parametrize("name", ["changed minds", "ledger away"])
async def test_a_ledger_on_postgresql(strategy: MakeStrategy, arena: Arena, name: str) -> None:
    """Orders, cancellations, and an outage: every property holds."""
    assert_valid(await try_out(strategy, SHOP[name], arena=arena, seed=1))


@pytest.mark.parametrize("name", SERVED_LEDGER)
async def test_answers_that_are_lost(
    strategy_of_two: MakeStrategy, arena: Arena, name: str
) -> None:
    """What was committed, and nobody heard of it, is neither lost nor booked twice."""
    trial = await try_out(strategy_of_two, SERVED_LEDGER[name], arena=arena, seed=1)

    assert_valid(trial)
    assert any(buy.outcome == "unknown" for buy in trial.history.of("buy"))


async def test_the_judge_sees_what_is_wrong(arena: Arena) -> None:
    """The control: who tells the buyer before the ledger is caught, when the server is away."""
    wrong = answered_too_early
    trial = await try_out(wrong.Purchase, ALONE[wrong.SCENARIO], arena=arena, seed=7)

    assert wrong.CAUGHT_BY in trial.verdict.broken, str(trial)
