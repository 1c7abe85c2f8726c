"""A cache for a moment, behind which one loads for all."""

import asyncio
import math

import pytest

from labshop.resilience import Cache, deadline_in_ms, remaining_ms
from labshop.resilience.cache import _Entry, _Load
from tests.resilience.conftest import OwnedClock, turns

TTL_MS = 100


class Down(Exception):
    """The source is away."""


class Source:
    """What is loaded; each load waits until the test answers it."""

    def __init__(self) -> None:
        self.loads: list[asyncio.Future[int]] = []
        self.remaining_ms: list[float] = []

    async def load(self, key: str) -> int:
        self.remaining_ms.append(remaining_ms())
        self.loads.append(asyncio.get_running_loop().create_future())
        return await self.loads[-1]


class Naive(Cache[str, int]):
    """The control: whoever misses loads, and keeps what comes."""

    async def get(self, key: str) -> int:
        entry = self._entries.get(key)
        if entry is not None and self.clock.now_ms() < entry.until_ms:
            return entry.value
        value = await self.load(key)
        self._keep(key, _Entry(value, self.clock.now_ms() + self.ttl_ms))
        return value


class Shared(Cache[str, int]):
    """The control: who waits, awaits the load itself, and its cancellation is the load's."""

    async def _wait_for(self, key: str, load: _Load[int]) -> int:
        return await load.task


@pytest.fixture
def source() -> Source:
    return Source()


def make(
    source: Source, clock: OwnedClock, kind: type[Cache[str, int]] = Cache[str, int], size: int = 10
) -> Cache[str, int]:
    return kind(source.load, TTL_MS, size, clock)


async def load_at_once(cache: Cache[str, int], source: Source, key: str, value: int) -> None:
    """Fill a key."""
    getting = asyncio.create_task(cache.get(key))
    await turns()
    source.loads[-1].set_result(value)
    assert await getting == value


@pytest.mark.parametrize(("kind", "loads"), [(Cache[str, int], 1), (Naive, 100)])
async def test_a_hundred_who_miss_together_load_once(
    source: Source, clock: OwnedClock, kind: type[Cache[str, int]], loads: int
) -> None:
    """All get what one load gave; the control loads a hundred times."""
    cache = make(source, clock, kind)
    waiting = [asyncio.create_task(cache.get("stock")) for _ in range(100)]
    await turns()
    assert len(source.loads) == loads
    for load in source.loads:
        load.set_result(7)
    assert set(await asyncio.gather(*waiting)) == {7}
    assert await cache.get("stock") == 7
    assert len(source.loads) == loads


async def test_a_failed_load_is_told_to_all_and_not_kept(source: Source, clock: OwnedClock) -> None:
    """All three who wait are told; the next one loads anew."""
    cache = make(source, clock)
    waiting = [asyncio.create_task(cache.get("stock")) for _ in range(3)]
    await turns()
    source.loads[0].set_exception(Down())
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ends] == [Down, Down, Down]
    await load_at_once(cache, source, "stock", 7)
    assert len(source.loads) == 2


@pytest.mark.parametrize(("kind", "served"), [(Cache[str, int], True), (Shared, False)])
async def test_who_asked_first_may_go_away(
    source: Source, clock: OwnedClock, kind: type[Cache[str, int]], served: bool
) -> None:
    """The load goes on for the others; in the control it ends with the first one's patience."""
    cache = make(source, clock, kind)
    first, second = (asyncio.create_task(cache.get("stock")) for _ in range(2))
    await turns()
    first.cancel()
    await turns()
    assert source.loads[0].cancelled() is not served
    if served:
        source.loads[0].set_result(7)
    await asyncio.wait((first, second))
    assert first.cancelled()
    assert second.cancelled() is not served


async def test_when_all_are_gone_the_load_ends(source: Source, clock: OwnedClock) -> None:
    """Nobody waits any more, so nothing is loaded; whoever comes then loads anew."""
    cache = make(source, clock)
    waiting = [asyncio.create_task(cache.get("stock")) for _ in range(3)]
    await turns()
    for task in waiting:
        task.cancel()
    await turns()
    assert source.loads[0].cancelled()
    await load_at_once(cache, source, "stock", 7)


@pytest.mark.parametrize(("kind", "kept"), [(Cache[str, int], 2), (Naive, 1)])
async def test_a_load_that_began_before_an_invalidation_does_not_fill_the_cache(
    source: Source, clock: OwnedClock, kind: type[Cache[str, int]], kept: int
) -> None:
    """Read before the change, answered after it: those who asked before get it, nobody else.

    The control serves the old value to all who come later.
    """
    cache = make(source, clock, kind)
    before = asyncio.create_task(cache.get("stock"))
    await turns()
    cache.invalidate("stock")
    after = asyncio.create_task(cache.get("stock"))
    await turns()
    assert len(source.loads) == 2

    source.loads[1].set_result(2)
    assert await after == 2
    source.loads[0].set_result(1)
    assert await before == 1
    assert await cache.get("stock") == kept


async def test_forgetting_one_or_all(source: Source, clock: OwnedClock) -> None:
    """An invalidated key is loaded anew, the others are kept; `clear` forgets them all."""
    cache = make(source, clock)
    await load_at_once(cache, source, "a", 1)
    await load_at_once(cache, source, "b", 2)
    cache.invalidate("a")
    assert await cache.get("b") == 2
    await load_at_once(cache, source, "a", 3)
    cache.clear()
    await load_at_once(cache, source, "b", 4)


async def test_age_counts_from_the_beginning_of_the_load(source: Source, clock: OwnedClock) -> None:
    """A load that took 60 of 100 ms leaves 40: nobody is given what was read longer ago."""
    cache = make(source, clock)
    getting = asyncio.create_task(cache.get("stock"))
    await turns()
    clock.ms += 60
    source.loads[0].set_result(7)
    assert await getting == 7
    clock.ms += 39
    assert await cache.get("stock") == 7
    clock.ms += 1
    await load_at_once(cache, source, "stock", 8)


async def test_it_keeps_so_many_and_forgets_the_one_asked_for_longest_ago(
    source: Source, clock: OwnedClock
) -> None:
    """Of three keys in a cache of two, the one that nobody asked for is gone."""
    cache = make(source, clock, size=2)
    await load_at_once(cache, source, "a", 1)
    await load_at_once(cache, source, "b", 2)
    assert await cache.get("a") == 1
    await load_at_once(cache, source, "c", 3)
    assert await cache.get("a") == 1
    await load_at_once(cache, source, "b", 4)
    assert len(cache._entries) == 2


async def test_the_first_ones_deadline_is_not_the_loads(source: Source, clock: OwnedClock) -> None:
    """A load is everybody's: it does not inherit the deadline of who happened to ask first."""
    cache = make(source, clock)
    with deadline_in_ms(1, clock):
        first = asyncio.create_task(cache.get("stock"))
    await turns()
    assert source.remaining_ms == [math.inf]
    source.loads[0].set_result(7)
    assert await first == 7
