"""What every way to buy must hold, ending in the judge's verdict.

The scenarios are those of `labshop.lab.trial.scenarios`; `labshop try` runs the same, and draws
the smallest failing history. Their control is the zoo, which must fail them: see tests/zoo.

They run on the lab's own stores, SQLite and one Redis; for others see the tests beside.
"""

import pytest

from labshop.lab.trial import Arena, try_out
from labshop.lab.trial.run import MakeStrategy, Trial
from labshop.lab.trial.scenarios import ALONE, FIRST_LOOK, SHOP
from tests.conftest import need_in_ci


def assert_valid(trial: Trial) -> None:
    """The judge accuses nobody, and every fault was made."""
    assert trial.verdict.outcome == "VALID", str(trial)
    if trial.skipped:
        need_in_ci("; ".join(trial.skipped))


@pytest.mark.parametrize("name", SHOP)
async def test_a_whole_shop(strategy: MakeStrategy, arena: Arena, name: str) -> None:
    """Guarded by the ledger, every property holds, whatever breaks meanwhile."""
    assert_valid(await try_out(strategy, SHOP[name], arena=arena, seed=1))


@pytest.mark.parametrize("name", [name for name in FIRST_LOOK if name in ALONE])
async def test_alone(strategy: MakeStrategy, arena: Arena, name: str) -> None:
    """On a ledger that books whatever it is told, the strategy itself protects the stock."""
    assert_valid(await try_out(strategy, ALONE[name], arena=arena, seed=1))


@pytest.mark.parametrize("seed", range(1, 6))
async def test_in_a_storm(strategy: MakeStrategy, arena: Arena, seed: int) -> None:
    """Six faults in two seconds, another six for each seed."""
    assert_valid(await try_out(strategy, SHOP["storm"], arena=arena, seed=100 + seed))
