"""Renewal: it keeps alive what is ours, a bounded number of times, and no longer than the body."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from labshop.locks import HeldLease, LockEvent, LockLost, Renewal
from tests.conftest import eventually
from tests.locks.conftest import AnyLock, Five, holder_keys, make_lock

TTL_MS = 300


class Visit:
    """A renewed hold of a lock, and how its body ended."""

    lease: HeldLease

    def __init__(
        self, lock: AnyLock, renewal: Renewal, body: Callable[[], Awaitable[object]]
    ) -> None:
        self.ended = ""
        self._hold = lock.hold(wait_ms=0, renewal=renewal)
        self._body = body

    async def go(self) -> None:
        async with self._hold as self.lease:
            try:
                await self._body()
            except asyncio.CancelledError:
                self.ended = "cancelled"
                raise
            self.ended = "by itself"


async def steal(five: Five, kind: str) -> None:
    """Let every key of the lock be somebody else's."""
    for node in five.outside:
        for key in set(holder_keys(kind)):
            await node.command("SET", key, "thief", "XX", "PX", 60_000)


@pytest.mark.parametrize("renewed", [True, False], ids=["renewed", "control"])
async def test_a_body_may_last_longer_than_the_lease(
    kind: str, five: Five, *, renewed: bool
) -> None:
    """A body of several times to live holds the lock to its end; control: not without renewal."""
    events: list[LockEvent] = []
    lock = make_lock(kind, five.process(), ttl_ms=TTL_MS, on_event=events.append)
    renewal = Renewal(ttl_ms=TTL_MS) if renewed else None
    async with lock.hold(wait_ms=0, renewal=renewal) as lease:
        since_ms, clock = lease.since_ms, lease.holding.clock
        await clock.sleep_ms(2.2 * TTL_MS)
        assert (await five.is_empty()) is not renewed
        assert (lease.remaining_ms() > 0) is renewed
        assert clock.now_ms() - since_ms > 2 * TTL_MS

    ends = {event.kind for event in events if event.kind in {"released", "lost"}}
    assert ends == {"released" if renewed else "lost"}
    await eventually(five.is_empty)


async def test_it_extends_a_bounded_number_of_times(kind: str, five: Five) -> None:
    """After so many extensions the lease ends, the body is cancelled, and LockLost is raised."""
    events: list[LockEvent] = []
    lock = make_lock(kind, five.process(), ttl_ms=TTL_MS, on_event=events.append)
    renewal = Renewal(ttl_ms=TTL_MS, times=2)
    visit = Visit(lock, renewal, asyncio.Event().wait)
    with pytest.raises(LockLost) as loss:
        await visit.go()

    assert visit.ended == "cancelled"
    assert loss.value.token == visit.lease.token
    assert [event.kind for event in events].count("extended") == 2 * len(loss.value.key.split(","))
    assert visit.lease.lost.is_set()
    await eventually(five.is_empty)


async def test_it_ends_with_the_body(kind: str, five: Five) -> None:
    """After the release nothing is extended, and no task of the renewal is left."""
    events: list[LockEvent] = []
    lock = make_lock(kind, five.process(), ttl_ms=60, on_event=events.append)
    async with lock.hold(wait_ms=0, renewal=Renewal(ttl_ms=60)) as lease:
        await eventually(lambda: has_happened(events, "extended"))

    assert not {task for task in asyncio.all_tasks() if "_keep" in repr(task.get_coro())}
    told = len(events)
    await lease.holding.clock.sleep_ms(100)
    assert len(events) == told
    await eventually(five.is_empty)


async def test_a_lost_lease_cancels_the_body(kind: str, five: Five) -> None:
    """Once the lock is another's, the body is cancelled, LockLost raised, the other's key kept."""
    lock = make_lock(kind, five.process(), ttl_ms=TTL_MS)

    async def body() -> None:
        await steal(five, kind)
        await asyncio.Event().wait()

    visit = Visit(lock, Renewal(ttl_ms=TTL_MS), body)
    with pytest.raises(LockLost):
        await visit.go()

    assert visit.ended == "cancelled"
    assert visit.lease.lost.is_set()
    assert await five.keys() == holder_keys(kind)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_body_that_is_not_cancelled_learns_of_the_loss(kind: str, five: Five) -> None:
    """Without `cancels_body` the body goes on, sees `lease.lost`, and LockLost comes at its end."""
    lock = make_lock(kind, five.process(), ttl_ms=TTL_MS)

    async def body() -> None:
        await steal(five, kind)
        await visit.lease.lost.wait()
        await asyncio.sleep(0)  # where it would be cancelled

    visit = Visit(lock, Renewal(ttl_ms=TTL_MS, cancels_body=False), body)
    with pytest.raises(LockLost):
        await visit.go()

    assert visit.ended == "by itself"


@pytest.mark.parametrize("error", [ZeroDivisionError, TimeoutError, asyncio.CancelledError])
async def test_errors_of_the_body_pass_as_they_are(
    kind: str, five: Five, error: type[BaseException]
) -> None:
    """What the body raises is neither wrapped nor taken for a loss, and the lock is free."""
    raised = error("its own")
    with pytest.raises(error) as seen:
        async with make_lock(kind, five.process()).hold(wait_ms=0, renewal=Renewal(ttl_ms=2_000)):
            raise raised

    assert seen.value is raised
    await eventually(five.is_empty)


async def test_a_cancelled_body_ends_cancelled(kind: str, five: Five) -> None:
    """A task that is cancelled from outside is cancelled, and has not lost its lock."""
    inside = asyncio.Event()
    events: list[LockEvent] = []
    lock = make_lock(kind, five.process(), on_event=events.append)

    async def visit() -> None:
        async with lock.hold(wait_ms=0, renewal=Renewal(ttl_ms=2_000)):
            inside.set()
            await asyncio.Event().wait()

    visiting = asyncio.create_task(visit())
    await inside.wait()
    visiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await visiting

    assert "lost" not in {event.kind for event in events}
    await eventually(five.is_empty)


@pytest.mark.parametrize("heals", [True, False], ids=["heals", "control"])
async def test_a_short_outage_is_survived(kind: str, five: Five, *, heals: bool) -> None:
    """Nodes that hang for a part of the lease cost nothing; control: for ever, they cost it."""
    nodes = five.process(timeout_ms=100)
    for node in nodes:
        await node.ready()
    lock = make_lock(kind, nodes, ttl_ms=1_000)
    was_renewed = False
    try:
        async with lock.hold(wait_ms=0, renewal=Renewal(ttl_ms=1_000)) as lease:
            first_deadline_ms = lease.deadline_ms
            for server in five.servers:
                server.freeze()
            await lease.holding.clock.sleep_ms(600 if heals else 60_000)
            for server in five.servers:
                server.thaw()
            await eventually(lambda: ends_after(lease, first_deadline_ms))
            was_renewed = True
    except LockLost:
        assert not heals
    finally:
        for server in five.servers:
            server.thaw()

    assert was_renewed is heals


async def has_happened(events: list[LockEvent], kind: str) -> bool:
    return kind in {event.kind for event in events}


async def ends_after(lease: HeldLease, deadline_ms: float) -> bool:
    return lease.holding.deadline_ms > deadline_ms
