"""The scenarios that the lab knows.

`SHOP` are for a whole shop, guarded by its ledger: every stage of the course must survive them
all. `QUORUM` are for a stage that locks on five masters. `ALONE` try a strategy by itself, on a
ledger that books whatever it is told; each forces one interleaving, or breaks one thing, that a
certain mistake cannot survive.
"""

import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from labshop.lab.crowd import Buyer, make_crowd, poisson
from labshop.lab.trial.arena import BRANCHES, LOCK_NODES, LOCK_TTL_MS, PRIMARY, Arena
from labshop.lab.trial.menu import Menu, clock_menu, link_menu, lock_menu, menu
from labshop.lab.trial.scenario import Plan, Scenario, crowd_of, one_unit
from labshop.lab.trial.scene import Scene
from labshop.shop.domain import Line
from labshop.stack.faults.errors import FaultUnavailable
from labshop.stack.faults.nemesis import Strike, draw_strikes

MEMORY_LOSS = frozenset({"exclusive-leases"})
"""A lock on one node ends with that node's memory, or when its clock jumps. No strategy can help
it: the fence is what protects the stock then."""

FAULT_AT_S, FAULT_FOR_S = 0.2, 0.4
FAR_MS = LOCK_TTL_MS / 4
LATER_S = 0.45
STORM_S, STORM_STRIKES = 2.0, 6


def during(name: str, target: str, *, at_s: float = FAULT_AT_S, for_s: float = FAULT_FOR_S) -> Plan:
    """One fault of the menu, in the middle of the sale."""

    def plan(arena: Arena, scene: Scene, _seed: int) -> Sequence[Strike]:
        def cannot() -> AbstractContextManager[object]:
            raise FaultUnavailable(f"What this trial runs on cannot be hurt so: {target} {name}.")

        fault = _everything(arena, scene).get((name, target), cannot)
        return [Strike(name, target, at_s, for_s, fault)]

    return plan


def _replies_lost(arena: Arena, _scene: Scene, _seed: int) -> Sequence[Strike]:
    """To both branches, for longer than a lease."""
    return [
        Strike("replies dropped", f"{branch} to {PRIMARY}", FAULT_AT_S, 2 * FAULT_FOR_S, fault)
        for branch in BRANCHES
        for fault in [link_menu(arena.network, branch)["replies dropped", f"{branch} to {PRIMARY}"]]
    ]


def _storm(arena: Arena, scene: Scene, seed: int) -> Sequence[Strike]:
    """Faults drawn from the menu, several at once."""
    return draw_strikes(menu(arena, scene), seed=seed, within_s=STORM_S, count=STORM_STRIKES)


def _everything(arena: Arena, scene: Scene) -> Menu:
    clocks = clock_menu(arena.nodes[PRIMARY]) if scene.gate is None else {}
    return {**menu(arena, scene), **clocks}


def _of_locks(name: str, *servers: str) -> Plan:
    """One fault of some masters of a quorum, in the middle of the sale."""

    def plan(arena: Arena, _scene: Scene, _seed: int) -> Sequence[Strike]:
        target = ", ".join(servers)
        fault = lock_menu(arena.network, arena.nodes, servers)[name, target]
        return [Strike(name, target, FAULT_AT_S, FAULT_FOR_S, fault)]

    return plan


def _far_away(delay_ms: float, *servers: str) -> Plan:
    """The first branch is far away from some servers all the time; the second is not."""

    def plan(arena: Arena, _scene: Scene, _seed: int) -> Sequence[Strike]:
        def delayed() -> AbstractContextManager[None]:
            return arena.network.delayed(delay_ms, client=BRANCHES[0], server=servers)

        return [Strike("far away", BRANCHES[0], 0.0, 2.5, delayed)]

    return plan


def _bundle(_chance: random.Random) -> tuple[Line, ...]:
    return (Line(1, 1), Line(2, 1))


def _two_lines(_chance: random.Random) -> tuple[Line, ...]:
    """A careless client names the same product on two lines."""
    return (Line(1, 2), Line(1, 2))


def _several(chance: random.Random) -> tuple[Line, ...]:
    return (Line(chance.randint(1, 3), chance.randint(1, 2)),)


def _two_or_three(chance: random.Random) -> tuple[Line, ...]:
    """Two or three of ten products, named in any order."""
    return tuple(Line(product, 1) for product in chance.sample(range(1, 11), chance.randint(2, 3)))


def _twice_each(user_ids: Sequence[int], seed: int) -> list[Buyer]:
    """Everybody clicks twice: the same request, at the same moment."""
    crowd = make_crowd(user_ids, one_unit, seed=seed)
    return [*crowd, *(replace(buyer, name=f"{buyer.name}, 2nd click") for buyer in crowd)]


def _with_twins(user_ids: Sequence[int], seed: int) -> list[Buyer]:
    """Everybody asks twice for one unit, the second time anew: that is not the same request."""
    first = make_crowd(user_ids, one_unit, seed=seed)
    second = make_crowd(user_ids, one_unit, seed=seed + 1_000)
    return [*first, *(replace(buyer, name=f"{buyer.name}, again") for buyer in second)]


def _pressed_twice(user_ids: Sequence[int], seed: int) -> list[Buyer]:
    """Eight press twice, at once; when they have their answers, the others come."""
    late = make_crowd(user_ids[8:], one_unit, seed=seed + 1)
    later = [replace(it, name=f"late {it.name}", arrives_s=0.3) for it in late]
    return [*_with_twins(user_ids[:8], seed), *later]


def _late_refusal(user_ids: Sequence[int], seed: int) -> list[Buyer]:
    """The first presses twice, and is refused once, late; the others come at once and later."""
    [first, twin] = _with_twins(user_ids[:1], seed)
    others = make_crowd(user_ids[1:], one_unit, seed=seed + 1)
    half = len(others) // 2
    soon = [replace(it, name=f"next {it.name}", arrives_s=0.1) for it in others[:half]]
    late = [replace(it, name=f"late {it.name}", arrives_s=0.8) for it in others[half:]]
    return [first, replace(twin, arrives_s=0.05), *soon, *late]


def _families_first(user_ids: Sequence[int], seed: int) -> list[Buyer]:
    """Six want three units each, at once; then the others want one."""
    families = make_crowd(user_ids[:6], lambda _: (Line(1, 3),), seed=seed)
    singles = make_crowd(user_ids[6:], one_unit, seed=seed + 1)
    return [*families, *(replace(it, name=f"late {it.name}", arrives_s=0.2) for it in singles)]


def _five_tabs(user_ids: Sequence[int], seed: int) -> list[Buyer]:
    """Everybody asks five times at once, each time anew."""
    tabs = [make_crowd(user_ids, one_unit, seed=seed + 1_000 * number) for number in range(5)]
    return [
        replace(buyer, name=f"{buyer.name}, tab {number}")
        for number, crowd in enumerate(tabs, start=1)
        for buyer in crowd
    ]


def _first_alone(user_ids: Sequence[int], seed: int) -> list[Buyer]:
    """One comes first; the others when that one has the lock."""
    crowd = make_crowd(user_ids, one_unit, seed=seed)
    return [crowd[0], *(replace(it, arrives_s=LATER_S) for it in crowd[1:])]


def _same_key(user_ids: Sequence[int], seed: int) -> list[Buyer]:
    """Everybody's client counts its requests from 1, and sends that as the key."""
    crowd = make_crowd(user_ids, one_unit, seed=seed, arrivals=poisson(100))
    return [replace(buyer, key="request-1") for buyer in crowd]


def _impatient_people(user_ids: Sequence[int], seed: int) -> list[Buyer]:
    """People who come one by one, and do not ask for long."""
    return [replace(buyer, patience_s=1.5) for buyer in people(user_ids, seed)]


people = crowd_of(arrivals=poisson(60))
_shop_faults = {
    "gate killed": ("killed", PRIMARY),
    "gate frozen": ("frozen", PRIMARY),
    "gate's power lost": ("power lost", PRIMARY),
    "gate emptied": ("emptied", PRIMARY),
    "gate's memory lost": ("memory lost", PRIMARY),
    "gate's clock ahead": ("clock ahead", PRIMARY),
    "gate's clock behind": ("clock behind", PRIMARY),
    "gate's disk full": ("disk full", PRIMARY),
    "ledger away": ("away", "ledger"),
    "ledger slow": ("slow", "ledger"),
    "replies dropped": ("replies dropped", "branch 1 to primary"),
    "requests dropped": ("requests dropped", "branch 1 to primary"),
    "connections reset": ("reset", "branch 1 to primary"),
    "branch cut off": ("cut off", "branch 1 to primary"),
    "slow drip": ("dripping", "branch 1 to primary"),
    "far away": ("delayed", "branch 1 to primary"),
    "machine busy": ("CPU busy", "machine"),
}

_shop = [
    Scenario("rush", "Thirty press buy at once on ten units."),
    Scenario(
        "people and bots",
        "People come one by one; every fifth visitor is a bot, and there first.",
        crowd=crowd_of(arrivals=poisson(80), bots=0.2),
    ),
    Scenario(
        "several products", "Three products, one or two units each.",
        stock={1: 8, 2: 8, 3: 8}, crowd=crowd_of(_several),
    ),
    Scenario(
        "ten products", "A hundred buy two or three of ten products, of which there are a hundred.",
        stock=dict.fromkeys(range(1, 11), 100), users=100, crowd=crowd_of(_two_or_three),
    ),
    Scenario("changed minds", "A third of those who bought cancel at once.", change_mind=0.34),
    Scenario("service restarted", "The service starts anew in mid-sale.", restart_after=8),
    Scenario(
        "holder paused",
        "Whoever comes first stands still before the ledger until the lease is over.",
        hold_ms=LOCK_TTL_MS * 1.5,
    ),
    *(
        Scenario(
            name, f"{fault.capitalize()}: {target}, in mid-sale.", stock={1: 20}, users=40,
            crowd=people, plan=during(fault, target), spares=MEMORY_LOSS,
        )
        for name, (fault, target) in _shop_faults.items()
    ),
    Scenario(
        "storm", f"{STORM_STRIKES} faults in {STORM_S:.0f} seconds, drawn from the seed.",
        stock={1: 40}, users=80, crowd=crowd_of(arrivals=poisson(50)), plan=_storm,
        spares=MEMORY_LOSS,
    ),
]  # fmt: skip

_alone = [
    Scenario("alone", "Thirty press buy at once on ten units.", guarded=False),
    Scenario(
        "families first", "Six want three units each; then the others want one.",
        crowd=_families_first, guarded=False,
    ),
    Scenario(
        "bundles", "Two products in each order.",
        stock={1: 10, 2: 6}, crowd=crowd_of(_bundle), guarded=False,
    ),
    Scenario(
        "two lines", "The same product stands on two lines of an order.",
        stock={1: 11}, crowd=crowd_of(_two_lines), guarded=False,
    ),
    Scenario(
        "double click", "Everybody clicks twice; there is enough for all.",
        stock={1: 40}, users=15, crowd=_twice_each, guarded=False,
    ),
    Scenario(
        "pressed twice", "Eight press twice, where one unit is allowed; then others come.",
        crowd=_pressed_twice, limit_per_user=1, guarded=False,
    ),
    Scenario(
        "five tabs", "Everybody asks from five tabs; two units are allowed; SQL does not count.",
        stock={1: 40}, users=10, crowd=_five_tabs, limit_per_user=2, ledger_limit=100,
        guarded=False,
    ),
    Scenario(
        "late refusal", "The first order is refused by the ledger after others have bought.",
        users=21, crowd=_late_refusal, limit_per_user=1, hold_ms=500, guarded=False,
    ),
    Scenario(
        "same key", "Everybody's idempotency key is the same word.", crowd=_same_key, guarded=False,
    ),
    Scenario(
        "restart", "The service starts anew in mid-sale.",
        crowd=people, restart_after=6, guarded=False,
    ),
    Scenario(
        "restock", "Sold out; then five units more are put on sale.", restock=5, guarded=False,
    ),
    Scenario(
        "one in flight", "The first order stands still before the ledger for a while.",
        stock={1: 20}, users=60, crowd=crowd_of(arrivals=poisson(150)), hold_ms=800, guarded=False,
    ),
    Scenario(
        "paused holder",
        "Who comes first stands still before the ledger until the lease is over, and so the next.",
        hold_ms=LOCK_TTL_MS * 1.5, held=2, guarded=False,
    ),
    Scenario(
        "clocks apart", "The second branch's wall clock is ten seconds ahead.",
        skew_s=10.0, guarded=False,
    ),
    Scenario(
        "one branch far away", "A round trip to Redis takes half a lease, from the first branch.",
        plan=_far_away(2 * FAR_MS, PRIMARY), users=12, crowd=_first_alone, guarded=False,
    ),
    Scenario(
        "far lock nodes", "Four of five lock nodes are far away, from the first branch.",
        plan=_far_away(1.5 * FAR_MS, *LOCK_NODES[:4]), needs_lock_nodes=True, users=4,
        crowd=_first_alone, hold_ms=LOCK_TTL_MS * 1.5, guarded=False,
    ),
    Scenario(
        "lost replies", "Redis carries commands out, and its replies are lost for a while.",
        stock={1: 30}, users=40, crowd=_impatient_people, plan=_replies_lost, guarded=False,
    ),
    Scenario(
        "frozen gate", "Redis hangs for a moment, in mid-sale.",
        stock={1: 20}, users=60, crowd=crowd_of(arrivals=poisson(80)),
        plan=during("frozen", PRIMARY, for_s=0.7), guarded=False,
    ),
    Scenario(
        "forgetful node", "Redis loses its memory in mid-sale.",
        stock={1: 20}, users=40, crowd=people, plan=during("memory lost", PRIMARY),
        spares=MEMORY_LOSS, guarded=False,
    ),
    Scenario(
        "ledger outage", "SQL is away for a while, and comes back.",
        stock={1: 30}, users=60, crowd=people, plan=during("away", "ledger", for_s=2.0),
    ),
]  # fmt: skip

_quorum_faults: dict[str, tuple[str, tuple[str, ...]]] = {
    "one lock node killed": ("killed", LOCK_NODES[:1]),
    "two lock nodes killed": ("killed", LOCK_NODES[:2]),
    "three lock nodes killed": ("killed", LOCK_NODES[:3]),
    "two lock nodes frozen": ("frozen", LOCK_NODES[:2]),
    "three lock nodes frozen": ("frozen", LOCK_NODES[:3]),
    "two lock nodes forgetful": ("forgetful", LOCK_NODES[:2]),
    "lock nodes cut off": ("cut off", LOCK_NODES[:3]),
    "lock nodes far away": ("far away", LOCK_NODES),
}

_quorum = [
    Scenario(
        name, f"{fault.capitalize()}: {', '.join(servers)}, in mid-sale.", stock={1: 20}, users=40,
        crowd=people, plan=_of_locks(fault, *servers),
    )
    for name, (fault, servers) in _quorum_faults.items()
]  # fmt: skip

SHOP: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _shop}
ALONE: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _alone}
QUORUM: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _quorum}
SCENARIOS: Mapping[str, Scenario] = {**SHOP, **QUORUM, **ALONE}

FIRST_LOOK = (
    "alone",
    "families first",
    "pressed twice",
    "restart",
    "restock",
    "same key",
    "rush",
    "changed minds",
    "holder paused",
    "gate killed",
    "replies dropped",
    "ledger away",
)
"""What a new strategy is tried in, one after the other, until one breaks it; a few seconds."""
