"""The faults of a campaign as a deck of cards, dealt sale by sale.

The problem: dice forget some kinds of fault and repeat others; a fixed list never meets a new
interleaving. The idea: every kind is one card. The deck is shuffled anew each time it is used up,
and a sale gets as many cards as its seed says where: so consecutive seeds go through all kinds, and
a sale can be repeated by its seed alone. Target, moment and length are dice of that seed.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from labshop.lab.chaos.premises import APIS, PRIMARY, REPLICA, Premises
from labshop.lab.trial.menu import Menu, clock_menu, link_menu, lock_menu, store_menu
from labshop.stack.faults.disk import disk_full
from labshop.stack.faults.nemesis import Fault, Strike
from labshop.stack.faults.processes import frozen, killed

FIRST_S = 0.3
EVERY_S = 0.8
SHORTEST_S, LONGEST_S = 0.2, 1.2
MOST_LOCK_NODES = 3


@dataclass(frozen=True, order=True)
class Kind:
    """A kind of fault: what happens, and to what kind of thing."""

    name: str
    whose: str

    def __str__(self) -> str:
        return f"{self.whose}: {self.name}"


class Deck:
    """All kinds of faults that these premises can have.

    Args:
        premises: what is hurt.
        clocks: whether the primary's clock jumps too; locks on one node count their fences by it
            (see `labshop.lab.trial.menu.clock_menu`).
    """

    def __init__(self, premises: Premises, *, clocks: bool = True) -> None:
        self._cards: dict[Kind, list[tuple[str, Fault]]] = {}
        for whose, menu in _menus(premises, clocks=clocks):
            for (name, target), fault in menu.items():
                whose_kind = whose or target
                self._cards.setdefault(Kind(name, whose_kind), []).append((target, fault))

    @property
    def kinds(self) -> list[Kind]:
        """Every kind there is."""
        return sorted(self._cards)

    def deal(self, seed: int, count: int) -> list[tuple[Kind, Strike]]:
        """The faults of one sale, each with its kind.

        Neighbours overlap more often than not. The same seed deals the same cards.
        """
        chance = random.Random(seed)  # noqa: S311  # dealt, not hidden
        dealt = []
        for number in range(count):
            kind = self._card(seed * count + number)
            target, fault = chance.choice(self._cards[kind])
            at_s = FIRST_S + EVERY_S * (number + chance.random())
            for_s = chance.uniform(SHORTEST_S, LONGEST_S)
            dealt.append((kind, Strike(kind.name, target, at_s, for_s, fault)))
        return dealt

    def _card(self, index: int) -> Kind:
        shuffle, position = divmod(index, len(self._cards))
        cards = self.kinds
        random.Random(shuffle).shuffle(cards)  # noqa: S311  # the same
        return cards[position]


def _menus(premises: Premises, *, clocks: bool) -> Iterator[tuple[str, Menu]]:
    """The faults, by whose they are; those of one thing stand under its own name."""
    primary, replica = premises.nodes[PRIMARY], premises.nodes[REPLICA]
    yield "", store_menu(primary, premises.ledger_file)
    yield (
        "",
        {
            ("killed", REPLICA): lambda: killed(replica),
            ("frozen", REPLICA): lambda: frozen(replica),
        },
    )
    if clocks:
        yield "", clock_menu(primary)
    for name in APIS:
        yield "API", _api_menu(premises, name)
        yield f"API to {PRIMARY}", link_menu(premises.network, name)
    for count in range(1, MOST_LOCK_NODES + 1):
        chosen = premises.lock_nodes[:count]
        yield "lock masters", lock_menu(premises.network, premises.nodes, chosen)


def _api_menu(premises: Premises, name: str) -> Menu:
    api = premises.apis[name]
    return {
        ("killed", name): lambda: killed(api),
        ("frozen", name): lambda: frozen(api),
        ("disk full", name): lambda: disk_full(api),
    }
