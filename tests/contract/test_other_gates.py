"""The contract on gates that outlive a server; with --stores, the whole suite runs there.

See the conftest beside.
"""

import pytest

from labshop.lab.trial import Arena, try_out
from labshop.lab.trial.elsewhere import FAILOVERS
from labshop.lab.trial.run import MakeStrategy
from labshop.lab.trial.scenarios import SHOP
from tests.contract.test_stage import assert_valid

pytestmark = pytest.mark.parametrize("arena", ["sentinel", "cluster"], indirect=True)


async def test_a_rush_at_another_gate(strategy: MakeStrategy, arena: Arena) -> None:
    """Where Sentinels or a Cluster lead to the gate, every property holds."""
    assert_valid(await try_out(strategy, SHOP["rush"], arena=arena, seed=1))


@pytest.mark.parametrize("name", FAILOVERS)
async def test_a_failover_in_mid_sale(
    strategy_of_two: MakeStrategy, arena: Arena, name: str
) -> None:
    """The gate's master dies and its replica takes over: every property holds."""
    assert_valid(await try_out(strategy_of_two, FAILOVERS[name], arena=arena, seed=1))
