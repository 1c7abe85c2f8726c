"""A bulkhead: so many inside, so many waiting, and the next one refused at once."""

import asyncio

import pytest

from labshop.resilience import Bulkhead, BulkheadFull, DeadlineExceeded, deadline_in_ms
from tests.resilience.conftest import turns


class Guests:
    """Those who come in, and stay until they are sent away."""

    def __init__(self, bulkhead: Bulkhead) -> None:
        self.bulkhead = bulkhead
        self.inside: list[str] = []
        self.entered: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}

    def come(self, name: str) -> "asyncio.Task[None]":
        self._leave[name] = asyncio.Event()
        return asyncio.create_task(self._stay(name))

    def send_away(self, name: str) -> None:
        self._leave[name].set()

    async def _stay(self, name: str) -> None:
        async with self.bulkhead:
            self.inside.append(name)
            self.entered.append(name)
            try:
                await self._leave[name].wait()
            finally:
                self.inside.remove(name)


class Forgetful(Bulkhead):
    """The control: who is cancelled in the queue still stands in it."""

    async def _wait(self) -> None:
        try:
            await super()._wait()
        except asyncio.CancelledError:
            self._line.append(asyncio.get_running_loop().create_future())
            raise


class Naive(Bulkhead):
    """The control: a place is not handed over but put down, and the first who waits is woken."""

    async def _wait(self) -> None:
        while self.inside >= self._limit:
            self._line.append(asyncio.get_running_loop().create_future())
            await self._line[-1]
        self.inside += 1

    def _hand_over(self) -> None:
        self.inside -= 1
        if self._line:
            self._line.popleft().set_result(None)


def one_place(kind: type[Bulkhead]) -> Bulkhead:
    """A bulkhead with one place and room for three who wait."""
    return kind("shop", limit=1, queue=3)


async def test_so_many_inside_so_many_waiting_and_the_rest_refused_at_once() -> None:
    """Of five, two are inside, two wait, and the fifth is refused without waiting."""
    bulkhead = Bulkhead("shop", limit=2, queue=2, retry_after_ms=700)
    guests = Guests(bulkhead)
    tasks = [guests.come(name) for name in "abcd"]
    await turns()
    assert (guests.inside, bulkhead.inside, bulkhead.waiting) == (["a", "b"], 2, 2)

    refused = guests.come("e")
    await turns()
    assert refused.done()
    error = refused.exception()
    assert isinstance(error, BulkheadFull)
    assert (error.name, error.retry_after_ms) == ("shop", 700)
    assert (bulkhead.is_full, bulkhead.room, bulkhead.refused) == (True, 4, 1)

    for name in "abcd":
        guests.send_away(name)
    await asyncio.gather(*tasks)
    assert (bulkhead.inside, bulkhead.waiting, bulkhead.is_full) == (0, 0, False)


@pytest.mark.parametrize(("kind", "entered"), [(Bulkhead, "abcd"), (Naive, "adcb")])
async def test_first_come_first_served_also_against_one_who_comes_at_the_right_moment(
    kind: type[Bulkhead], entered: str
) -> None:
    """A place that is freed belongs to the first in the queue; in the control a newcomer gets it,
    and the first in the queue stands at its end again.
    """
    guests = Guests(one_place(kind))
    tasks = [guests.come(name) for name in "abc"]
    await turns()
    guests.send_away("a")
    tasks.append(guests.come("d"))
    await turns()
    for name in "bcd":
        guests.send_away(name)
    await asyncio.gather(*tasks)
    assert "".join(guests.entered) == entered


@pytest.mark.parametrize(("kind", "served"), [(Bulkhead, True), (Forgetful, False)])
async def test_who_is_cancelled_in_the_queue_leaves_it(kind: type[Bulkhead], served: bool) -> None:
    """Its room in the queue is free again; the control refuses although nobody waits."""
    bulkhead = kind("shop", limit=1, queue=1)
    guests = Guests(bulkhead)
    first, second = guests.come("a"), guests.come("b")
    await turns()
    second.cancel()
    await asyncio.wait((second,))
    third = guests.come("c")
    await turns()
    assert third.done() is not served
    for name in "ac":
        guests.send_away(name)
    await asyncio.wait((first, third))
    assert (third.exception() is None) is served
    assert (bulkhead.inside == 0) is served


@pytest.mark.parametrize(("kind", "entered"), [(Bulkhead, ["c"]), (Naive, [])])
async def test_a_place_that_is_handed_to_someone_who_is_cancelled_goes_to_the_next(
    kind: type[Bulkhead], entered: list[str]
) -> None:
    """The cancellation comes in the same turn of the loop as the place: it is not lost.

    In the control the one who was woken is gone, and nobody wakes the next.
    """
    bulkhead = one_place(kind)
    await bulkhead.__aenter__()
    guests = Guests(bulkhead)
    second, third = guests.come("b"), guests.come("c")
    await turns()
    await bulkhead.__aexit__(None, None, None)
    second.cancel()
    await turns()
    assert second.cancelled()
    assert guests.entered == entered
    third.cancel()
    await asyncio.wait((third,))
    assert (bulkhead.inside, bulkhead.waiting == 0) == (0, kind is Bulkhead)


async def test_nobody_waits_longer_than_its_deadline() -> None:
    """Who is still in the queue at its deadline is refused, and leaves the queue."""
    bulkhead = Bulkhead("shop", limit=1, queue=1)
    guests = Guests(bulkhead)
    first = guests.come("a")
    await turns()
    with deadline_in_ms(20), pytest.raises(DeadlineExceeded):
        async with bulkhead:
            pytest.fail("it was let in")
    assert bulkhead.waiting == 0
    guests.send_away("a")
    await first


async def test_who_comes_with_a_deadline_behind_it_does_not_stand_in_the_queue() -> None:
    """Its time is over before it waits: it is refused, and leaves no trace."""
    bulkhead = Bulkhead("shop", limit=1, queue=1)
    async with bulkhead:
        with deadline_in_ms(0), pytest.raises(DeadlineExceeded):
            async with bulkhead:
                pytest.fail("it was let in")
        assert bulkhead.waiting == 0


def test_one_without_a_place_is_refused() -> None:
    """A limit of nought is a mistake, and said to be one."""
    with pytest.raises(ValueError, match="without a place"):
        Bulkhead("shop", limit=0)
