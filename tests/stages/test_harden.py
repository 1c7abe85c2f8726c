"""A hardened stage: what it bears, and that it sells as exactly as the stage inside."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from labshop.api import errors as answers
from labshop.api.shop import Shop
from labshop.clock import SystemClock
from labshop.lab.trial import Arena, try_out
from labshop.lab.trial.scenarios import SCENARIOS
from labshop.locks import (
    Lease,
    Lock,
    LockError,
    LockLost,
    LockTimeout,
    NodeDown,
    NodeRefused,
    NodeSilent,
    NoQuorum,
)
from labshop.resilience import Backoff, CircuitBreaker
from labshop.shop.domain import Line, Order, Receipt
from labshop.shop.errors import (
    LimitReached,
    Overloaded,
    PurchaseError,
    Refused,
    SoldOut,
    StaleFence,
    Unavailable,
    Unknown,
)
from labshop.shop.events import Event
from labshop.stages import guard as guards
from labshop.stages import harden as page
from labshop.stages import v1_setnx, v2_multilock, v4_production
from labshop.stages.base import PurchaseStrategy, Toolbox, load_strategy
from labshop.stages.harden import harden
from tests.conftest import eventually, users
from tests.resilience.conftest import turns
from tests.resilience.test_breaker import HerdBreaker
from tests.stages.moody import MoodyGate, MoodyLedger, suffer

PRODUCT = 1
NO_RETRY = Backoff(tries=1)


class Mine:
    """A learner's strategy, without a lock, and without a thought for outages."""

    def __init__(self, tools: Toolbox) -> None:
        self.tools = tools

    async def buy(self, order: Order) -> Receipt:
        await self.tools.inventory.reserve(order)
        return await self.tools.ledger.record(order, fence=0)


STRATEGIES: dict[str, Callable[[Toolbox], PurchaseStrategy]] = {
    "v1": v1_setnx.Purchase,
    "v2": v2_multilock.Purchase,
    "v4": v4_production.Purchase,
    "mine": Mine,
}
HardenedMine = harden(Mine)


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Arena() as arena:
        yield arena


@dataclass
class Scene:
    """A shop whose gate and ledger can be made to fail, and whoever buys there."""

    shop: Shop
    gate: MoodyGate
    ledger: MoodyLedger
    buyers: list[int]
    changes: list[tuple[str, str]] = field(default_factory=list)

    def tools(self) -> Toolbox:
        return replace(
            self.shop.toolbox(), inventory=self.gate, ledger=self.ledger, publish=self.publish
        )

    def publish(self, event: Event) -> None:
        if event.kind == "breaker":
            self.changes.append((event.details["name"], event.details["state"]))

    def order(self, buyer: int = 0) -> Order:
        return Order.place(self.buyers[buyer], [Line(PRODUCT, 1)])

    async def books(self) -> tuple[int, int, int]:
        """Units left and unsold at the gate, and left in the ledger."""
        left = await self.shop.inventory.left(PRODUCT)
        unsold = await self.shop.inventory.unsold(PRODUCT)
        return left, unsold, (await self.shop.ledger.snapshot()).left[PRODUCT]


@pytest.fixture
async def scene(shop: Shop) -> Scene:
    """A shop with 100 units, and 60 users."""
    gate, ledger = MoodyGate(shop.inventory), MoodyLedger(shop.ledger)
    return Scene(shop, gate, ledger, await users(shop, 60))


def away(times: int = 1) -> list[Exception | asyncio.Event]:
    return [Unavailable("ledger", "the test says so") for _ in range(times)]


async def end_of(purchase: "asyncio.Task[Receipt]") -> str:
    try:
        await purchase
    except (PurchaseError, LockError) as end:
        return type(end).__name__
    return "bought"


async def open_breaker(scene: Scene, strategy: PurchaseStrategy) -> None:
    """Let the ledger fail until its breaker opens."""
    scene.ledger.moods = away(5)
    for _ in range(5):
        with pytest.raises(Unavailable):
            await strategy.buy(scene.order())
    assert scene.changes == [("ledger", "open")]
    scene.ledger.asked.clear()


@pytest.mark.parametrize("name", ["rush", "ledger outage", "gate killed", "ledger away"])
@pytest.mark.parametrize("stage", STRATEGIES)
async def test_the_judge_finds_nothing(arena: Arena, stage: str, name: str) -> None:
    """Whatever is away, whoever is inside: VALID, and every unit is sold."""
    strategy = harden(STRATEGIES[stage], recovery_ms=100)
    trial = await try_out(strategy, SCENARIOS[name], arena=arena, seed=1)

    assert trial.verdict.outcome == "VALID", str(trial)
    assert trial.skipped == ()
    [*_, books] = trial.history.of("audit")
    assert books.result["left"] == {"1": 0}


async def test_in_an_outage_of_the_ledger_one_probe_at_a_time(arena: Arena) -> None:
    """Without a lock in front, a crowd meets the breaker: it opens, probes, and closes."""
    strategy = harden(v4_production.Purchase, recovery_ms=100, failure_threshold=1)
    trial = await try_out(strategy, SCENARIOS["ledger outage"], arena=arena, seed=1)

    assert trial.verdict.outcome == "VALID", str(trial)
    states = Counter(change.state for change in trial.history.breakers)
    assert states["open"] >= 1
    assert states["closed"] >= 1
    assert len(list(trial.history.of("probe"))) >= 1


async def test_control_the_judge_sees_a_herd_of_probes(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a breaker that lets everybody through when half open, the same run is accused."""
    monkeypatch.setattr(page, "CircuitBreaker", HerdBreaker)
    strategy = harden(v4_production.Purchase, recovery_ms=100, failure_threshold=1)
    trial = await try_out(strategy, SCENARIOS["ledger outage"], arena=arena, seed=1)

    assert "one-probe" in trial.verdict.broken, str(trial)


@pytest.mark.parametrize(("kind", "met"), [(CircuitBreaker, 1), (HerdBreaker, 50)])
async def test_fifty_buyers_meet_a_ledger_that_comes_back_as_one(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, kind: type[CircuitBreaker], met: int
) -> None:
    """One of fifty is the probe, 49 are refused at once and their units given back.

    The control lets the ledger meet all fifty.
    """
    monkeypatch.setattr(page, "CircuitBreaker", kind)
    strategy = harden(v4_production.Purchase, recovery_ms=0, backoff=NO_RETRY)(scene.tools())
    await open_breaker(scene, strategy)

    is_back = asyncio.Event()
    scene.ledger.moods = [is_back] * 50
    purchases = [asyncio.create_task(strategy.buy(scene.order(it))) for it in range(1, 51)]

    async def all_are_where_they_go() -> bool:
        return len(scene.ledger.asked) + sum(it.done() for it in purchases) == 50

    await eventually(all_are_where_they_go)
    assert len(scene.ledger.asked) == met
    is_back.set()
    ends = Counter([await end_of(purchase) for purchase in purchases])
    assert ends == Counter({"bought": met, "Overloaded": 50 - met})
    assert scene.changes == [("ledger", "open"), ("ledger", "half_open"), ("ledger", "closed")]
    assert await scene.books() == (100 - met, 100 - met, 100 - met)


async def test_an_open_breaker_refuses_before_the_ledger_is_asked(scene: Scene) -> None:
    """The refusal is definite and says when to come again; the units are on sale again."""
    strategy = harden(v1_setnx.Purchase, recovery_ms=60_000, backoff=NO_RETRY)(scene.tools())
    await open_breaker(scene, strategy)

    with pytest.raises(Overloaded, match="breaker of the ledger is open") as refusal:
        await strategy.buy(scene.order())
    assert isinstance(refusal.value, Refused)
    assert 50 <= refusal.value.retry_after_s <= 60
    assert scene.ledger.asked == []
    assert await scene.books() == (100, 100, 100)


async def test_sold_out_opens_no_breaker(scene: Scene) -> None:
    """A hundred buyers who are refused for want of stock leave all breakers closed."""
    await scene.shop.ledger.adjust(PRODUCT, units=0, actor="test")
    await scene.shop.inventory.gate.rebuild()
    strategy = harden(v1_setnx.Purchase)(scene.tools())
    for _ in range(100):
        with pytest.raises(SoldOut):
            await strategy.buy(scene.order())
    assert scene.changes == []


async def test_overload_refuses_at_once(scene: Scene) -> None:
    """Two are inside, three wait; the sixth is refused while nobody else has moved."""
    strategy = harden(v4_production.Purchase, limit=2, queue=3)(scene.tools())
    may_go = asyncio.Event()
    scene.ledger.moods = [may_go] * 2
    purchases = [asyncio.create_task(strategy.buy(scene.order(it))) for it in range(5)]
    await turns()

    with pytest.raises(Overloaded, match="places of the shop are taken") as refusal:
        await strategy.buy(scene.order(5))
    assert refusal.value.retry_after_s == 1
    assert not any(purchase.done() for purchase in purchases)
    assert len(scene.gate.asked) == 2
    may_go.set()
    assert [await end_of(purchase) for purchase in purchases] == ["bought"] * 5


async def test_a_buyer_who_goes_away_gives_its_place_back(scene: Scene) -> None:
    """Cancelled at the ledger, or in the queue: the next ones come in all the same."""
    strategy = harden(v4_production.Purchase, limit=1, queue=1)(scene.tools())
    scene.ledger.moods = [asyncio.Event()]
    for _ in range(3):
        inside = asyncio.create_task(strategy.buy(scene.order(0)))
        await turns()
        waiting = asyncio.create_task(strategy.buy(scene.order(1)))
        await turns()
        for purchase in (waiting, inside):
            purchase.cancel()
        await asyncio.wait((waiting, inside))
    await strategy.buy(scene.order(2))


async def test_a_reservation_whose_reply_is_lost_is_asked_for_again(scene: Scene) -> None:
    """The gate carried it out and could not say so: asked again, it holds one unit, not two."""
    scene.gate.loses_replies, scene.gate.moods = True, away()
    strategy = harden(v1_setnx.Purchase)(scene.tools())
    order = scene.order()
    receipt = await strategy.buy(order)
    assert receipt.order_id == order.id
    assert scene.gate.asked == [order.id, order.id]
    assert await scene.books() == (99, 99, 99)


async def test_what_the_ledger_did_not_take_in_is_brought_again(scene: Scene) -> None:
    """Twice away, then back: the buyer gets a receipt, and the units were held all the time."""
    scene.ledger.moods = away(2)
    order = scene.order()
    await harden(v2_multilock.Purchase)(scene.tools()).buy(order)
    assert scene.ledger.asked == [order.id] * 3
    assert scene.gate.asked == [order.id]
    assert await scene.books() == (99, 99, 99)


async def test_an_unknown_outcome_is_never_tried_again(scene: Scene) -> None:
    """The ledger is asked once; the buyer is told which order to look up."""
    order = scene.order()
    scene.ledger.moods = [Unknown(order.id, "the test says so")]
    with pytest.raises(Unknown) as doubt:
        await harden(v1_setnx.Purchase)(scene.tools()).buy(order)
    assert doubt.value.order_id == order.id
    assert scene.ledger.asked == [order.id]


async def test_who_was_overtaken_begins_anew(scene: Scene) -> None:
    """A later holder has written: what was reserved is given back, and a new order is booked."""
    scene.ledger.moods = [StaleFence(PRODUCT, 1, 2)]
    order = scene.order()
    receipt = await harden(v1_setnx.Purchase)(scene.tools()).buy(order)
    assert receipt.order_id != order.id
    assert receipt.user_id == order.user_id
    assert scene.ledger.asked == [order.id, receipt.order_id]
    assert await scene.books() == (99, 99, 99)


class GuardsAll(guards.GuardedInventory):
    """The control: also what settles an order is refused when the gate's breaker is open."""

    async def confirm(self, receipt: Receipt) -> None:
        await self.guard.call(lambda: self.inventory.confirm(receipt))


@pytest.mark.parametrize(
    ("kind", "end"), [(guards.GuardedInventory, "bought"), (GuardsAll, "Overloaded")]
)
async def test_whoever_is_booked_is_told_so_whatever_the_breaker_says(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, kind: type[guards.GuardedInventory], end: str
) -> None:
    """The gate's breaker opens while an order is being booked: it is confirmed all the same.

    In the control the buyer is refused, and the order stands in the ledger.
    """
    monkeypatch.setattr(page, "GuardedInventory", kind)
    strategy = harden(v2_multilock.Purchase, backoff=NO_RETRY)(scene.tools())
    books = asyncio.Event()
    scene.ledger.moods = [books]
    purchase = asyncio.create_task(strategy.buy(scene.order(0)))

    async def is_at_the_ledger() -> bool:
        return len(scene.ledger.asked) == 1

    await eventually(is_at_the_ledger)
    await turn_away_at_the_gate(scene, strategy)
    books.set()
    assert await end_of(purchase) == end
    assert (await scene.shop.ledger.snapshot()).left[PRODUCT] == 99


async def turn_away_at_the_gate(scene: Scene, strategy: PurchaseStrategy) -> None:
    """Five buyers of another product find the gate away."""
    scene.gate.moods = away(5)
    for buyer in range(1, 6):
        order = Order.place(scene.buyers[buyer], [Line(PRODUCT + 1, 1)])
        with pytest.raises(Unavailable):
            await strategy.buy(order)
    assert scene.changes == [("gate", "open")]


async def test_nobody_waits_for_a_lock_beyond_the_deadline(scene: Scene) -> None:
    """The lock would be waited for ten seconds; the buyer has three tenths of one."""
    strategy = harden(v1_setnx.Purchase, deadline_ms=300)(scene.tools())
    async with scene.shop.lock(f"product:{PRODUCT}").hold(wait_ms=1_000):
        began_s = time.monotonic()
        with pytest.raises(LockTimeout):
            await strategy.buy(scene.order())
    assert 0.29 <= time.monotonic() - began_s < 5
    assert scene.gate.asked == []


@dataclass
class LateClock(SystemClock):
    """A clock that the test can put forward."""

    ahead_ms: float = 0.0

    def now_ms(self) -> float:
        return super().now_ms() + self.ahead_ms


async def test_no_step_begins_when_the_time_is_over(scene: Scene) -> None:
    """The gate took too long: the ledger is not asked, and the units are on sale again."""
    clock, answer = LateClock(), asyncio.Event()
    scene.gate.moods = [answer]
    strategy = harden(v1_setnx.Purchase)(replace(scene.tools(), clock=clock))
    purchase = asyncio.create_task(strategy.buy(scene.order()))

    async def is_at_the_gate() -> bool:
        return len(scene.gate.asked) == 1

    await eventually(is_at_the_gate)
    clock.ahead_ms = 10_000
    answer.set()
    with pytest.raises(Overloaded, match="time was over"):
        await purchase
    assert scene.ledger.asked == []
    assert await scene.books() == (100, 100, 100)


async def test_a_lock_that_nobody_can_give_opens_its_breaker(scene: Scene) -> None:
    """A lock node that is down is left alone after a while; one that is held by others is not."""

    class DeadLock:
        @asynccontextmanager
        async def hold(self, *, wait_ms: float) -> AsyncIterator[Lease]:
            await suffer([NodeDown("lock-1", "the test says so")])
            yield cast("Lease", self)

    def make_lock(*names: str) -> Lock:
        return DeadLock()

    tools = replace(scene.tools(), lock=make_lock)
    strategy = harden(v1_setnx.Purchase, backoff=NO_RETRY)(tools)
    ends = Counter(
        [await end_of(asyncio.create_task(strategy.buy(scene.order()))) for _ in range(8)]
    )
    assert ends == Counter({"NodeDown": 5, "Overloaded": 3})
    assert scene.changes == [("lock", "open")]


OUTAGES = {
    Unavailable("gate", "no answer"): (True, True),
    NodeDown("n1", "refused"): (True, True),
    NodeRefused("n1", "OOM"): (True, True),
    NoQuorum("key", 3, {"n1": "down"}): (True, True),
    NodeSilent("n1", "no answer"): (True, False),
    Unknown(Order.place(1, [Line(1, 1)]).id, "no answer"): (True, False),
    RuntimeError("a defect"): (True, False),
    Overloaded("gate", "its breaker is open", 100): (True, False),
    SoldOut(1, 0): (False, False),
    LimitReached(1, 1): (False, False),
    LockTimeout("key", 100): (False, False),
    LockLost("key", "token"): (False, False),
}


@pytest.mark.parametrize("error", OUTAGES, ids=lambda error: type(error).__name__)
def test_what_counts_as_an_outage_and_what_is_tried_again(error: Exception) -> None:
    """Answers are no outages; and only what certainly did not happen is tried again."""
    assert (guards.is_failure(error), guards.may_be_repeated(error)) == OUTAGES[error]


def test_a_hardened_strategy_is_one_like_any_other() -> None:
    """It can be named where a stage is named, for instance in LABSHOP_STRATEGY."""
    assert load_strategy("tests.stages.test_harden:HardenedMine") is HardenedMine


async def test_what_the_strategy_has_to_close_is_closed(scene: Scene) -> None:
    """A strategy with an `aclose` of its own keeps it; one without needs none."""
    closed = asyncio.Event()

    class Closing(Mine):
        async def aclose(self) -> None:
            closed.set()

    for strategy in (Mine, Closing):
        hardened = harden(strategy)(scene.tools())
        await hardened.aclose()  # type: ignore[attr-defined]  # the Protocol does not ask for it
    assert closed.is_set()


def test_over_http_it_is_a_503_that_says_when_to_come_again() -> None:
    """1.2 seconds are told as 2, for the header knows whole seconds only."""
    answer = answers.answer_to(Overloaded("ledger", "its breaker is open", 1_200))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert b'"/problems/overloaded"' in answer.body
