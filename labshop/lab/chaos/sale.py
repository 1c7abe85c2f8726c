"""One sale of a campaign: a crowd at two APIs, probes beside it, faults, and the verdict.

Demand exceeds the stock and every buyer is patient, so each unit has to be sold, once. When the
crowd has gone and all faults are healed, the shop gets `RECOVER_S` to serve again by itself, and as
long to bring gate and ledger to say the same; then the books are read and the whole is judged.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import httpx2 as httpx

from labshop.errors import SetupError
from labshop.judge.checker import check
from labshop.judge.history import History, Sale
from labshop.judge.recorder import Recorder
from labshop.judge.verdict import Verdict
from labshop.lab.chaos.books import Books, read_books
from labshop.lab.chaos.deck import Deck, Kind
from labshop.lab.chaos.measure import RECOVER_S, Spell
from labshop.lab.chaos.premises import APIS, Premises
from labshop.lab.chaos.probes import PRODUCT, Prober, served_since
from labshop.lab.crowd import Buyer, make_crowd, poisson, press_buy
from labshop.lab.doors import AT_ONCE, HttpDoor
from labshop.locks import Node
from labshop.shop.domain import Line
from labshop.stack.faults.nemesis import Fault, Nemesis, Strike

STOCK = {1: 60, 2: 60}
USERS = 80
"""For each product; every fifth of them presses `GREED` times, each time anew."""
SALE_S = 5.0
"""How long it takes on average until all have come."""
GREEDY = 5
GREED = 3
LIMIT_PER_USER = 2
RESERVE = 1_000
PROBERS = 150
"""Users behind the probes of each API."""
PATIENCE_S = 25.0
HANG_UP_S = 3.0
"""After this time without an answer a buyer asks again, perhaps at the other API."""
HOLD_STILL_S = 0.6
"""Books that stay the same for so long are settled: nothing is on its way any more."""
_PAUSE_S = 0.1


@dataclass(frozen=True)
class Played:
    """What came of a sale; `missing` says why faults were not made, `stuck` what did not heal."""

    seed: int
    history: History
    verdict: Verdict
    spells: tuple[Spell, ...]
    oversold: int
    undersold: int
    missing: tuple[str, ...]
    stuck: tuple[str, ...]
    took_s: float


async def play_sale(
    premises: Premises, deck: Deck, *, seed: int, faults: int, stage: str
) -> Played:
    """Play one sale, and judge it.

    Args:
        premises: where.
        deck: deals the faults.
        seed: decides the crowd and the faults.
        faults: how many.
        stage: the route under which everybody buys.
    """
    began_s = time.monotonic()
    stock = {**STOCK, PRODUCT: RESERVE}
    after = await premises.restock(stock, LIMIT_PER_USER)
    run = _Sale(premises, Recorder(Sale(stock, LIMIT_PER_USER)), stage)
    missing = await run.play(deck.deal(seed, faults), seed)
    books = await run.close_the_books(after)
    history = run.recorder.history()
    promised = _promised(history)
    sold = {product: books.sold(product) for product in stock}
    over = sum(max(0, sold[it] - units, promised[it] - units) for it, units in stock.items())
    under = sum(max(0, units - sold[product]) for product, units in STOCK.items())
    return Played(
        seed=seed,
        history=history,
        verdict=check(history),
        spells=tuple(sorted(run.spells, key=lambda spell: spell.struck_ms)),
        oversold=over,
        undersold=under,
        missing=missing,
        stuck=tuple(run.stuck),
        took_s=time.monotonic() - began_s,
    )


class _Sale:
    def __init__(self, premises: Premises, recorder: Recorder, stage: str) -> None:
        self.recorder = recorder
        self.spells: list[Spell] = []
        self.stuck: list[str] = []
        self._premises = premises
        self._stage = stage
        self._one_record = threading.Lock()
        self._urls = {name: api.url for name, api in premises.apis.items()}

    async def play(self, dealt: Sequence[tuple[Kind, Strike]], seed: int) -> tuple[str, ...]:
        """Let everybody come and everything strike; tell why something did not."""
        strikes = [self._noted(kind, strike) for kind, strike in dealt]
        tokens = self._premises.welcome(USERS * len(STOCK))
        stop = asyncio.Event()
        nemesis = Nemesis(strikes)
        async with asyncio.TaskGroup() as beside:
            for prober in self._probers():
                beside.create_task(prober.run(stop))
            try:
                with nemesis:
                    await self._visit(_crowd(list(tokens), seed), tokens)
                    await asyncio.to_thread(nemesis.wait)
            except* (SetupError, OSError) as broken:
                self.stuck += [f"{type(error).__name__}: {error}" for error in broken.exceptions]
            await self._wait_until_served()
            stop.set()
        return tuple(nemesis.skipped)

    async def close_the_books(self, after: int) -> Books:
        """Wait until nothing moves any more; then write down what ledger and gate say."""
        # A strategy of one's own may go without the gate: then the ledger alone is asked.
        products = [] if self._stage == "own" else [*STOCK, PRODUCT]
        node = self._premises.gate_node()
        try:
            books, at_gate = await self._still_books(after, node, products)
        finally:
            await node.close()
        if at_gate is None:
            self.stuck.append(f"the gate holds units back, or is away, after {RECOVER_S:.0f} s")
        left = {str(product): books.left[product] for product in (*STOCK, PRODUCT)}
        with self.recorder.invoke("auditor", "audit", {"settled": True}) as call:
            call.ok(left=left, orders=books.orders)
        for product in products:
            asked = {"product": product, "place": "gate"}
            with self.recorder.invoke("auditor", "read", asked) as call:
                if at_gate is None:
                    call.unknown("NotSettled")
                else:
                    call.ok(left=at_gate[product])
        return books

    async def _visit(self, crowd: Sequence[Buyer], tokens: dict[int, str]) -> None:
        limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
        async with httpx.AsyncClient(limits=limits, timeout=HANG_UP_S) as client:
            door = HttpDoor(client, list(self._urls.values()), tokens, self._stage)
            await press_buy(crowd, door, self.recorder)

    def _probers(self) -> Iterator[Prober]:
        for name, url in self._urls.items():
            tokens = self._premises.welcome(PROBERS)
            yield Prober(
                name,
                url,
                tokens,
                per_user=LIMIT_PER_USER,
                stage=self._stage,
                recorder=self.recorder,
            )

    async def _wait_until_served(self) -> None:
        """Until each API has served a probe that was sent after the last fault, if it ever does."""
        calm_ms = max((spell.lifted_ms for spell in self.spells), default=0.0)
        until_s = time.monotonic() + RECOVER_S
        while time.monotonic() < until_s:
            history = self.recorder.history()
            if all(served_since(history, api, calm_ms) is not None for api in APIS):
                return
            await asyncio.sleep(_PAUSE_S)

    async def _still_books(
        self, after: int, node: Node, products: Sequence[int]
    ) -> tuple[Books, dict[int, int] | None]:
        until_s = time.monotonic() + RECOVER_S
        same_since_s, before = time.monotonic(), None
        while True:
            books = read_books(self._premises.ledger_file, after)
            at_gate = await self._premises.gate_stock(node, products)
            now_s = time.monotonic()
            seen = (books.newest, at_gate)
            if seen != before:
                same_since_s, before = now_s, seen
            agrees = at_gate is not None and all(books.left[p] == at_gate[p] for p in products)
            if (agrees and now_s - same_since_s >= HOLD_STILL_S) or now_s > until_s:
                return books, at_gate
            await asyncio.sleep(_PAUSE_S)

    def _noted(self, kind: Kind, strike: Strike) -> Strike:
        """The same strike, written down.

        For the judge it lasts until it is healed, for the measures until the healing begins.
        """

        @contextmanager
        def noted() -> Iterator[None]:
            record = self.recorder.fault(strike.name, strike.target)
            with self._one_record:
                record.__enter__()
            try:
                with strike.fault():
                    struck_ms = time.monotonic() * 1_000
                    try:
                        yield
                    finally:
                        lifted_ms = time.monotonic() * 1_000
                        self.spells.append(Spell(kind, strike.target, struck_ms, lifted_ms))
            finally:
                record.__exit__(None, None, None)

        fault: Fault = noted
        return replace(strike, fault=fault)


def _promised(history: History) -> Counter[int]:
    """Units in orders that somebody holds a receipt of, by product."""
    receipts = {buy.order_id: buy.lines for buy in history.of("buy") if buy.outcome == "ok"}
    units = Counter[int]()
    for lines in receipts.values():
        units.update(lines)
    return units


def _crowd(users: Sequence[int], seed: int) -> list[Buyer]:
    """Half of them want one product, half the other; some press again and again."""
    crowd: list[Buyer] = []
    for number, product in enumerate(STOCK):
        half = users[number * USERS : (number + 1) * USERS]
        for press in range(GREED):
            chosen = half[::GREEDY] if press else half
            come = make_crowd(
                chosen,
                lambda _, product=product: (Line(product, 1),),  # type: ignore[misc]  # bound here
                seed=seed * 100 + number * 10 + press,
                arrivals=poisson(len(chosen) / SALE_S),
            )
            suffix = f"of product {product}, press {press + 1}"
            named = (replace(it, name=f"{it.name} {suffix}", patience_s=PATIENCE_S) for it in come)
            crowd += named
    return crowd
