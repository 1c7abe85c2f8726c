"""The scenarios of stores that the lab's own topology does not have.

`FAILOVERS` are for a gate whose master has a replica that takes over, `SERVED_LEDGER` for a ledger
that is a server and no file. Such stores have the scenarios of `labshop.lab.trial.scenarios` too,
but for those that hurt the lab's primary or the way there.
"""

from collections.abc import Mapping

from labshop.lab.trial.gates import GATE
from labshop.lab.trial.ledgers import LEDGER
from labshop.lab.trial.scenario import Scenario
from labshop.lab.trial.scenarios import FAULT_FOR_S, MEMORY_LOSS, during, people

_failovers = [
    Scenario(
        "gate's master killed", "The gate's master dies in mid-sale, and its replica takes over.",
        stock={1: 20}, users=40, crowd=people, plan=during("master killed", GATE),
        spares=MEMORY_LOSS,
    ),
]  # fmt: skip

_served_ledger = [
    Scenario(
        "ledger's answers lost", "SQL books orders for a while, and nobody hears of it.",
        stock={1: 20}, users=40, crowd=people,
        plan=during("replies dropped", LEDGER, for_s=2 * FAULT_FOR_S),
    ),
]  # fmt: skip

FAILOVERS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _failovers}
SERVED_LEDGER: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _served_ledger}
