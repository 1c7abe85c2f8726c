"""The graders of lesson 2 are graded: each classic wrong answer loses exactly its points."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from labshop.clock import SystemClock
from labshop.lab.bundle_exercise import HINTS as BUNDLE_HINTS
from labshop.lab.bundle_exercise import PROPERTIES as BUNDLE_PROPERTIES
from labshop.lab.bundle_exercise import ReferencePurchase, check_purchase
from labshop.lab.lanes import Bar
from labshop.lab.many_locks import LockAll, LockOne, OneLease, OwnLocks, reference_lock_all
from labshop.lab.many_locks_exercise import HINTS, PROPERTIES, check_lock_all
from labshop.lab.own_lock import OwnLease
from labshop.lab.session import Lab
from labshop.lab.trial.run import MakeStrategy
from labshop.lab.wait_graph import WaitGraph
from labshop.locks import LockTimeout, Node, SingleLock
from labshop.locks.keys import fence_key, lock_key
from labshop.settings import read_settings
from labshop.shop.domain import Line, Order, Receipt, merge_lines
from labshop.shop.errors import Refused, SoldOut
from labshop.stages import v2_multilock
from labshop.stages.base import Toolbox

OUT_OF = 10
HOLDS, SORTED, MERGED, NONE, CANCELLED, DEADLINE, BODY, REVERSE, OTHERS = PROPERTIES
WHOLE, TWICE, UNDONE = (name for name, _ in BUNDLE_PROPERTIES.values())

Leases = AsyncIterator[Sequence[OneLease]]


class Budget:
    """What is left of a time."""

    def __init__(self, wait_ms: float) -> None:
        self.until_s = asyncio.get_running_loop().time() + wait_ms / 1_000

    def left_ms(self) -> float:
        return max(0.0, (self.until_s - asyncio.get_running_loop().time()) * 1_000)


@asynccontextmanager
async def by_hand(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """Right, without the standard library's help."""
    budget = Budget(wait_ms)
    leases: list[OneLease] = []
    try:
        await take(lock_one, names, budget, leases)
        yield leases
    finally:
        await free(leases)


async def take(
    lock_one: LockOne, names: Sequence[str], budget: Budget, leases: list[OneLease]
) -> None:
    for name in sorted(set(names)):
        lease = await lock_one(name).acquire(wait_ms=budget.left_ms())
        leases.append(lease)  # one by one: what was taken before a failure must be known


async def free(leases: Sequence[OneLease]) -> None:
    if leases:
        try:
            await leases[-1].release()
        finally:
            await free(leases[:-1])


@asynccontextmanager
async def one_inside_the_other(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """Right, by recursion."""
    first, *rest = sorted(set(names))
    budget = Budget(wait_ms)
    lease = await lock_one(first).acquire(wait_ms=wait_ms)
    try:
        if rest:
            async with one_inside_the_other(lock_one, rest, budget.left_ms()) as others:
                yield [lease, *others]
        else:
            yield [lease]
    finally:
        await lease.release()


@asynccontextmanager
async def not_written(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """The stub, as the learner finds it."""
    if wait_ms >= 0:
        raise NotImplementedError
    yield []


@asynccontextmanager
async def does_nothing(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """Runs the body, and locks nothing."""
    yield []


@asynccontextmanager
async def as_named(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """In the order of the buyer: the dining philosophers."""
    budget = Budget(wait_ms)
    async with AsyncExitStack() as held:
        leases = []
        for name in dict.fromkeys(names):
            lease = await lock_one(name).acquire(wait_ms=budget.left_ms())
            held.push_async_callback(lease.release)
            leases.append(lease)
        yield leases


@asynccontextmanager
async def not_merged(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """Sorted, and a name that stands there twice is waited for."""
    budget = Budget(wait_ms)
    async with AsyncExitStack() as held:
        leases = []
        for name in sorted(names):
            lease = await lock_one(name).acquire(wait_ms=budget.left_ms())
            held.push_async_callback(lease.release)
            leases.append(lease)
        yield leases


@asynccontextmanager
async def each_its_own_time(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """Ten locks may take ten times as long as was allowed."""
    async with AsyncExitStack() as held:
        leases = []
        for name in sorted(set(names)):
            lease = await lock_one(name).acquire(wait_ms=wait_ms)
            held.push_async_callback(lease.release)
            leases.append(lease)
        yield leases


@asynccontextmanager
async def equal_shares(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """A third of the time for each of three, needed or not."""
    wait_ms /= len(set(names))
    async with each_its_own_time(lock_one, names, wait_ms) as leases:
        yield leases


@asynccontextmanager
async def in_seconds(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """Seconds given to what takes milliseconds."""
    budget = Budget(wait_ms)
    async with AsyncExitStack() as held:
        leases = []
        for name in sorted(set(names)):
            lease = await lock_one(name).acquire(wait_ms=budget.left_ms() / 1_000)
            held.push_async_callback(lease.release)
            leases.append(lease)
        yield leases


@asynccontextmanager
async def forgets_the_first(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """What was taken before the failure is held until its time to live ends."""
    budget = Budget(wait_ms)
    leases = [await lock_one(name).acquire(wait_ms=budget.left_ms()) for name in sorted(set(names))]
    try:
        yield leases
    finally:
        await free(leases)


@asynccontextmanager
async def only_exceptions(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """A cancellation is no Exception."""
    budget = Budget(wait_ms)
    leases: list[OneLease] = []
    try:
        await take(lock_one, names, budget, leases)
    except Exception:
        await free(leases)
        raise
    try:
        yield leases
    finally:
        await free(leases)


@asynccontextmanager
async def only_timeouts(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """A lock can fail otherwise than by being held."""
    budget = Budget(wait_ms)
    leases: list[OneLease] = []
    try:
        await take(lock_one, names, budget, leases)
    except (LockTimeout, asyncio.CancelledError):
        await free(leases)
        raise
    try:
        yield leases
    finally:
        await free(leases)


@asynccontextmanager
async def swallows(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """Who does not get all goes on with some."""
    budget = Budget(wait_ms)
    leases: list[OneLease] = []
    try:
        for name in sorted(set(names)):
            try:
                leases.append(await lock_one(name).acquire(wait_ms=budget.left_ms()))
            except LockTimeout:
                break
        yield leases
    finally:
        await free(leases)


@asynccontextmanager
async def no_finally(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """Released only when all went well."""
    budget = Budget(wait_ms)
    leases: list[OneLease] = []
    try:
        await take(lock_one, names, budget, leases)
    except BaseException:
        await free(leases)
        raise
    yield leases
    await free(leases)


@asynccontextmanager
async def first_freed_first(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """Released in the order in which they were taken."""
    budget = Budget(wait_ms)
    leases: list[OneLease] = []
    try:
        await take(lock_one, names, budget, leases)
        yield leases
    finally:
        await free(leases[::-1])


@asynccontextmanager
async def a_loop_that_ends(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """The first release that fails leaves the others locked."""
    budget = Budget(wait_ms)
    leases: list[OneLease] = []
    try:
        await take(lock_one, names, budget, leases)
        yield leases
    finally:
        for lease in reversed(leases):
            await lease.release()


@asynccontextmanager
async def never_frees(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """Leaves it to the time to live."""
    budget = Budget(wait_ms)
    yield [await lock_one(name).acquire(wait_ms=budget.left_ms()) for name in sorted(set(names))]


@asynccontextmanager
async def all_at_once(lock_one: LockOne, names: Sequence[str], wait_ms: float) -> Leases:
    """Asked for side by side: no order at all between two buyers, and a failure leaves some."""
    wanted = sorted(set(names), reverse=True)  # whichever comes first
    leases = await asyncio.gather(*(lock_one(name).acquire(wait_ms=wait_ms) for name in wanted))
    try:
        yield leases
    finally:
        await free(leases)


@pytest.mark.parametrize(
    ("answer", "lost"),
    [
        (reference_lock_all, set()),
        (by_hand, set()),
        (one_inside_the_other, set()),
        (does_nothing, set(PROPERTIES)),
        (as_named, {SORTED}),
        (not_merged, {MERGED}),
        (each_its_own_time, {DEADLINE}),
        (equal_shares, {DEADLINE}),
        (in_seconds, {DEADLINE}),
        (forgets_the_first, {NONE, CANCELLED}),
        (only_exceptions, {CANCELLED}),
        (only_timeouts, {NONE}),
        (swallows, {NONE}),
        (no_finally, {BODY}),
        (first_freed_first, {REVERSE}),
        (a_loop_that_ends, {OTHERS}),
        (never_frees, {HOLDS, NONE, CANCELLED, BODY, REVERSE, OTHERS}),
        (all_at_once, {SORTED, NONE, CANCELLED}),
    ],
)
async def test_a_wrong_lock_all_loses_exactly_its_points(
    node: Node, answer: LockAll, lost: set[str]
) -> None:
    """Each mistake costs the properties that it breaks, and no other."""
    grade = await check_lock_all(answer, node)

    assert {f.name for f in grade.findings if f.outcome != "PASS"} == lost, str(grade)
    assert grade.points == OUT_OF - sum(PROPERTIES[name][0] for name in lost)
    assert grade.finished == (not lost)


async def test_an_unwritten_lock_all_is_to_do_and_not_wrong(node: Node) -> None:
    """The stub earns nothing, and is called TODO in every property."""
    grade = await check_lock_all(not_written, node)

    assert {f.outcome for f in grade.findings} == {"TODO"}
    assert (grade.points, grade.out_of, grade.first_failure) == (0, OUT_OF, None)


async def test_a_failure_shows_what_stayed_locked_and_never_the_answer(node: Node) -> None:
    """The reason names the step; the story shows the locks that are still held."""
    grade = await check_lock_all(only_exceptions, node)

    failure = grade.first_failure
    assert failure is not None
    assert "its task was cancelled while it waited for lock 2 of 3" in failure.reason
    assert [it.lane for it in failure.story if isinstance(it, Bar)] == ["product:1"]
    assert "finally" not in failure.reason
    assert set(HINTS) == set(PROPERTIES)


async def test_locks_by_a_lock_all_are_locks_of_a_toolbox(node: Node) -> None:
    """What `OwnLocks` makes holds all names, with the newest fence, and frees them."""
    locks = OwnLocks(by_hand, lambda name: SingleLock(node, name, ttl_ms=5_000))

    async with locks("b", "a", "b").hold(wait_ms=0) as lease:
        held = [await node.command("EXISTS", lock_key(name)) for name in "ab"]
        fences = [int(await node.command("GET", fence_key(name))) for name in "ab"]

    assert held == [1, 1]
    assert lease.fence == max(fences)
    assert await node.command("EXISTS", lock_key("a"), lock_key("b")) == 0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose arena alone is used."""
    home: Path = tmp_path_factory.mktemp("lab")
    lab = Lab(home, read_settings(home=home), "02_multilock")
    yield lab
    asyncio.run(lab.close())


class LineByLine(ReferencePurchase):
    """Half a bundle: what is there is taken, and the refusal comes after."""

    async def buy(self, order: Order) -> Receipt:
        order = replace(order, lines=merge_lines(order.lines))
        async with hold(self, order) as fence:
            for line in order.lines:
                await look(self, line)
                await take_units(self, line)
            return await record_or_undo(self, order, fence)


class NotMerged(ReferencePurchase):
    """Each line is looked at by itself."""

    async def buy(self, order: Order) -> Receipt:
        async with hold(self, order) as fence:
            for line in order.lines:
                await look(self, line)
            for line in order.lines:
                await take_units(self, line)
            return await record_or_undo(self, order, fence)


class KeepsTheUnits(ReferencePurchase):
    """What the ledger refuses is never on sale again."""

    async def buy(self, order: Order) -> Receipt:
        order = replace(order, lines=merge_lines(order.lines))
        async with hold(self, order) as fence:
            for line in order.lines:
                await look(self, line)
            for line in order.lines:
                await take_units(self, line)
            return await self.ledger.record(order, fence=fence)


@asynccontextmanager
async def hold(shop: ReferencePurchase, order: Order) -> AsyncIterator[int]:
    names = [f"product:{line.product_id}" for line in order.lines]
    async with shop.lock(*names).hold(wait_ms=shop.lock_wait_ms) as lease:
        yield lease.fence


async def look(shop: ReferencePurchase, line: Line) -> None:
    left = int(await shop.node.command("GET", f"stock:{line.product_id}"))
    if left < line.quantity:
        raise SoldOut(line.product_id, left)


async def take_units(shop: ReferencePurchase, line: Line) -> None:
    await shop.node.command("DECRBY", f"stock:{line.product_id}", line.quantity)


async def record_or_undo(shop: ReferencePurchase, order: Order, fence: int) -> Receipt:
    try:
        return await shop.ledger.record(order, fence=fence)
    except Refused:
        for line in order.lines:
            await shop.node.command("INCRBY", f"stock:{line.product_id}", line.quantity)
        raise


class NoLocks(ReferencePurchase):
    """Everybody looks, and then everybody takes."""

    def __init__(self, tools: Toolbox) -> None:
        super().__init__(replace(tools, lock=lambda *_: OpenDoor()))


class OpenDoor:
    """A lock that lets everybody in."""

    @asynccontextmanager
    async def hold(self, *, wait_ms: float) -> AsyncIterator[OwnLease]:
        clock = SystemClock()
        yield OwnLease("door", "", clock.now_ms() + 1_000, clock)


class NotWritten(ReferencePurchase):
    """The stub."""

    async def buy(self, order: Order) -> Receipt:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("answer", "lost"),
    [
        (ReferencePurchase, set()),
        (v2_multilock.Purchase, set()),
        (LineByLine, {WHOLE}),
        (NotMerged, {TWICE}),
        (KeepsTheUnits, {UNDONE}),
        (NoLocks, {WHOLE, TWICE, UNDONE}),
    ],
)
async def test_a_wrong_purchase_loses_exactly_its_points(
    lab: Lab, answer: MakeStrategy, lost: set[str]
) -> None:
    """Each mistake costs the scenarios that show it, and no other."""
    grade = await check_purchase(lab, answer)

    assert {f.name for f in grade.findings if f.outcome != "PASS"} == lost, str(grade)
    assert grade.finished == (not lost)


async def test_an_unwritten_purchase_is_to_do_and_not_wrong(lab: Lab) -> None:
    """The stub is called TODO in every scenario, and nothing is drawn."""
    grade = await check_purchase(lab, NotWritten)

    assert {f.outcome for f in grade.findings} == {"TODO"}
    assert set(BUNDLE_HINTS) == {name for name, _ in BUNDLE_PROPERTIES.values()}


def test_a_ring_is_a_cycle_and_a_queue_is_none() -> None:
    """Whoever follows the arrows of a deadlock comes back; of a queue, to an end."""
    ring = WaitGraph({"a": "Ada", "b": "Bob"}, {"Ada": "b", "Bob": "a"})
    queue = WaitGraph({"a": "Ada", "b": "Bob"}, {"Cleo": "a", "Ada": "b"})

    assert [arrow.end for arrow in ring.cycle()] == ["b", "Bob", "a", "Ada"]
    assert queue.cycle() == []
    assert [arrow.end for arrow in queue.way_from("Cleo")] == ["a", "Ada", "b", "Bob"]
