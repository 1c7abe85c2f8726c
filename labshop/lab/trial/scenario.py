"""A scenario: who comes to a sale, what is on sale, and what goes wrong meanwhile.

Each is a value, so a test, a command and a notebook run the same one. `labshop.lab.trial.scenarios`
holds those that the lab knows.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from labshop.lab.crowd import Arrivals, Buyer, all_at_once, make_crowd
from labshop.lab.trial.arena import Arena
from labshop.lab.trial.scene import Scene
from labshop.shop.domain import Line
from labshop.stack.faults.nemesis import Strike

Crowd = Callable[[Sequence[int], int], list[Buyer]]
"""Makes the buyers, of the ids of users and a seed."""

Plan = Callable[[Arena, Scene, int], Sequence[Strike]]
"""Makes the faults of a run, of its servers and a seed."""


def no_faults(_arena: Arena, _scene: Scene, _seed: int) -> Sequence[Strike]:
    """Nothing goes wrong."""
    return ()


def one_unit(_chance: random.Random) -> tuple[Line, ...]:
    """Everybody wants one unit of product 1."""
    return (Line(1, 1),)


def crowd_of(
    wish: Callable[[random.Random], tuple[Line, ...]] = one_unit,
    arrivals: Arrivals = all_at_once,
    bots: float = 0.0,
) -> Crowd:
    """A crowd in which every user comes once."""

    def make(user_ids: Sequence[int], seed: int) -> list[Buyer]:
        return make_crowd(user_ids, wish, seed=seed, arrivals=arrivals, bots=bots)

    return make


@dataclass(frozen=True)
class Scenario:
    """What is tried.

    `guarded` sells on the shop's own ledger, which alone bars overselling; otherwise on one that
    books whatever it is told, so that the strategy is judged by itself.

    With `needs_lock_nodes`, a lock under test is on five masters instead of one.

    `hold_ms` stops whoever comes to the ledger for that long, just before it; the first `held` who
    come, and then nobody. `skew_s` sets the wall clock of the second branch ahead. `ledger_limit`
    is the limit per user that the ledger enforces, where it is not the sale's.
    `restart_after` answers, the service is started anew. `restock` units of product 1 are put on
    sale when the crowd has gone, and as many users come once more. `change_mind` is the share of
    buyers who cancel at once. `spares` names properties that the scenario breaks for any strategy.
    """

    name: str
    story: str
    stock: Mapping[int, int] = field(default_factory=lambda: {1: 10})
    users: int = 30
    crowd: Crowd = field(default_factory=crowd_of)
    limit_per_user: int = 10
    guarded: bool = True
    plan: Plan = no_faults
    needs_lock_nodes: bool = False
    hold_ms: float = 0.0
    held: int = 1
    skew_s: float = 0.0
    ledger_limit: int | None = None
    restart_after: int = 0
    restock: int = 0
    change_mind: float = 0.0
    spares: frozenset[str] = frozenset()
