"""Holds the gate against the ledger in mid-sale, and tells what nothing explains.

The problem: left + held + sold is the initial stock, but only while no message is on its way, and
in a sale some always are. Whoever subtracts one store from the other sees a mismatch at each
moment, and whoever repairs that makes a true one. The idea: account for each order on its way.

Units move at the gate when an order is reserved, settled or given back; in the ledger when it is
booked or cancelled. For an order that both know alike, both are right, or both are wrong. So only
these matter:

- *held*: reserved, and not settled. Its units are out of `left`, and in `held`, whatever the ledger
  thinks of it;
- *untold*: the ledger has booked or cancelled it, and the gate does not know yet.

That is the invariant, of each product, at any moment of a sound sale:

    left at the gate = left in the ledger - units held + units of untold sales
                                                       - units of untold cancellations
    held at the gate = units held

and of each user, units bought = bought by the ledger + held - untold sales + untold cancellations.
What is left when the right side is taken from the left one is a *drift*. No message changes it:
reserved, booked, told or cancelled, an order moves both sides by the same. So a drift stays as it
is until somebody repairs it, and can be looked at twice.

The two stores cannot be read in one moment. So the ledger's news are read first, then the gate in
one atomic step, then the ledger's numbers, and whatever has moved in the ledger between its two
readings is *busy*, and is not judged in this look. That costs nothing: where too little is left at
the gate, nobody buys, and nothing is busy.

Each look reads a page of the products and a page of the users, and whoever had news. It does not
see a user whom the gate has forgotten altogether: the ledger refuses what is over their limit. Nor
does it repair anything: that is `labshop.ops.repair`'s business.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from labshop.locks.wire import Part
from labshop.shop.errors import Unavailable
from labshop.storage.database import Database
from labshop.storage.gate import Gate
from labshop.storage.movements import (
    Movement,
    News,
    Stock,
    read_news,
    read_product_page,
    read_stock,
)

NEWS_LIMIT = 2_000
"""Events that one look accounts for; with more, it only finds out what the gate was told."""
RESERVED_LIMIT = 5_000
PRODUCT_PAGE = 500
USER_PAGE = 200


Kind = Literal["left", "held", "bought"]


class Place(NamedTuple):
    """Where a number stands at the gate: `left` or `held` of a product, `bought` of a user."""

    kind: Kind
    number: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"


class Reserved(NamedTuple):
    """A line of an order that is held."""

    order_id: str
    user_id: int
    product_id: int
    units: int


@dataclass(frozen=True)
class Reading:
    """What the gate said at one moment; `settled` is the event up to which it was told all."""

    epoch: str
    settled: int
    unwatched_ms: int
    numbers: dict[Place, int]
    reserved: tuple[Reserved, ...]
    states: dict[str, str]


@dataclass(frozen=True)
class Finding:
    """What one look found.

    `drifts` are units that the gate shows too many (or, below zero, too few); `untold` are orders
    that the gate does not know as the ledger does; up to the event `settled` there is none. With
    `is_behind` there were too many news to judge anything.
    """

    epoch: str
    settled: int
    unwatched_ms: int
    drifts: dict[Place, int]
    untold: tuple[Movement, ...]
    is_behind: bool


class Comparison:
    """Compares one gate with its ledger, page by page."""

    def __init__(self, gate: Gate, database: Database) -> None:
        self._gate = gate
        self._database = database
        self._last_product = 0
        self._cursor = "0"
        self._product_rounds = self._user_rounds = 0

    @property
    def rounds(self) -> int:
        """How often every product and every user has been looked at."""
        return min(self._product_rounds, self._user_rounds)

    async def look(self, only: Collection[Place] = ()) -> Finding:
        """Compare the next page.

        Args:
            only: places to compare instead.

        Raises:
            Unavailable: gate or ledger cannot be reached, or the gate is being built.
        """
        if only:
            products = {place.number for place in only if place.kind != "bought"}
            users = {place.number for place in only if place.kind == "bought"}
        else:
            products, users = await self._product_page(), await self._user_page()
        epoch, settled = await self._mark()
        news = await self._database.read(lambda session: read_news(session, settled, NEWS_LIMIT))
        users |= {movement.receipt.user_id for movement in news.movements}
        reading = await self._read(sorted(products), sorted(users), news.movements)
        if reading.epoch != epoch:
            raise Unavailable("gate", "it was built anew meanwhile")
        stock = await self._database.read(
            lambda session: read_stock(session, products, users, news.up_to)
        )
        return account(news, reading, stock)

    async def _mark(self) -> tuple[str, int]:
        fields = ("epoch", "settled", "sequence")
        epoch, settled, sequence = await self._gate.believed(
            lambda: self._gate.ask("HMGET", self._gate.key, *fields)
        )
        if epoch is None:
            raise Unavailable("gate", "it is being built")
        return epoch, int(settled or sequence)

    async def _user_page(self) -> set[int]:
        cursor, entries = await self._gate.ask(
            "HSCAN", self._gate.bought, self._cursor, "COUNT", USER_PAGE
        )
        self._cursor = cursor
        self._user_rounds += cursor == "0"
        return {int(user) for user in entries[::2]}

    async def _product_page(self) -> set[int]:
        last = self._last_product
        page = await self._database.read(
            lambda session: read_product_page(session, last, PRODUCT_PAGE)
        )
        self._last_product = page[-1] if len(page) == PRODUCT_PAGE else 0
        self._product_rounds += not self._last_product
        return set(page)

    async def _read(
        self, products: Sequence[int], users: Sequence[int], movements: Sequence[Movement]
    ) -> Reading:
        gate, ids = self._gate, [str(movement.receipt.order_id) for movement in movements]
        keys = (gate.key, gate.bought, gate.held)
        args: list[Part] = [f"{gate.tag}:order:", RESERVED_LIMIT, len(products), len(users)]
        answer = await gate.believed(
            lambda: gate.run("read_gate", keys, (*args, *products, *users, *ids))
        )
        if not answer:
            raise Unavailable("gate", "it is being built, or too much is reserved")
        epoch, settled, unwatched_ms, counts, bought, reserved, states = answer
        numbers = {Place("left", it): n for it, n in zip(products, counts[::2], strict=True)}
        numbers |= {Place("held", it): n for it, n in zip(products, counts[1::2], strict=True)}
        numbers |= {Place("bought", it): n for it, n in zip(users, bought, strict=True)}
        lines = tuple(Reserved(*line) for line in reserved)
        told = dict(zip(ids, states, strict=True))
        return Reading(epoch, settled, unwatched_ms, numbers, lines, told)


def account(news: News, reading: Reading, stock: Stock) -> Finding:
    """What is wrong at the gate when every order that is on its way has been accounted for.

    Args:
        news: the ledger's, read before the gate.
        reading: the gate's numbers, and the state of each order with news.
        stock: the ledger's numbers, read after the gate, and who has moved since the news.
    """
    right = Counter({Place("left", product): units for product, units in stock.left.items()})
    right.update({Place("bought", user): units for user, units in stock.bought.items()})
    for held in reading.reserved:
        right[Place("left", held.product_id)] -= held.units
        right[Place("held", held.product_id)] += held.units
        right[Place("bought", held.user_id)] += held.units
    held_ids = {held.order_id for held in reading.reserved}
    for movement in news.movements:
        order_id = str(movement.receipt.order_id)
        is_taken = _is_taken(movement, reading, is_held=order_id in held_ids)
        # 1 for an untold sale, -1 for an untold cancellation.
        untold = (movement.receipt.status == "confirmed") - is_taken
        right[Place("bought", movement.receipt.user_id)] -= untold * movement.units
        for line in movement.receipt.lines:
            right[Place("left", line.product_id)] += untold * line.quantity
    drifts = {place: units - right[place] for place, units in reading.numbers.items()}
    untold_orders = [it for it in news.movements if not _is_told(it, reading)]
    return Finding(
        epoch=reading.epoch,
        settled=untold_orders[0].first - 1 if untold_orders else news.up_to,
        unwatched_ms=reading.unwatched_ms,
        drifts={
            place: drift
            for place, drift in drifts.items()
            if drift and news.is_all and not _is_busy(place, stock)
        },
        untold=tuple(untold_orders),
        is_behind=not news.is_all,
    )


def _is_taken(movement: Movement, reading: Reading, *, is_held: bool) -> bool:
    """Whether the order's units are out of `left` and `held` together."""
    state = reading.states[str(movement.receipt.order_id)]
    if state == "sold":
        return True
    if state == "returned" or is_held:
        return False
    # The gate has never heard of it: either it was built from a ledger that had it, or is yet to.
    return movement.receipt.sequence <= reading.settled


def _is_told(movement: Movement, reading: Reading) -> bool:
    state = reading.states[str(movement.receipt.order_id)]
    return state == "returned" or (state == "sold" and movement.receipt.status == "confirmed")


def _is_busy(place: Place, stock: Stock) -> bool:
    moved = stock.moved_users if place.kind == "bought" else stock.moved_products
    return place.number in moved
