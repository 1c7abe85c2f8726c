"""What an administrator sees of a lock, and can do about it; and locks that are taken twice."""

import asyncio

import pytest

from labshop.locks import (
    LockEvent,
    LockLost,
    LockState,
    LockTimeout,
    NodeError,
    Reentrant,
    SingleLock,
    force_release,
    look_at,
)
from labshop.stack.nodes import ServerNode
from tests.conftest import connected, eventually
from tests.locks.conftest import WOKEN_S, Five, make_lock, redlock


async def test_a_free_lock_is_seen_as_free(either_server: ServerNode) -> None:
    """Nobody holds it, nobody waits, and it has no end."""
    async with connected(either_server) as node:
        assert await look_at(node, "door") == LockState("door", "", 0, -1, 0)


async def test_a_held_lock_is_seen_with_its_holder(five: Five) -> None:
    """Token, fence, time left, and how many processes wait."""
    lease = await SingleLock(five.process()[0], "door", ttl_ms=10_000).acquire(wait_ms=0)
    waiting = [
        asyncio.create_task(
            SingleLock(five.process()[0], "door", ttl_ms=10_000).acquire(wait_ms=5_000)
        )
        for _ in range(2)
    ]
    await eventually(lambda: is_queued(five, 2))

    state = await look_at(five.outside[0], "door")

    assert (state.token, state.fence, state.waiting) == (lease.token, lease.fence, 2)
    assert 0 < state.remaining_ms <= 10_000
    await lease.release()
    for task in asyncio.as_completed(waiting):
        await (await task).release()


async def test_a_key_without_an_end_is_told(five: Five) -> None:
    """A lock that was set by hand, without a time to live, is seen as one that never ends."""
    await five.outside[0].command("SET", "lock:{door}", "by hand")

    assert await look_at(five.outside[0], "door") == LockState("door", "by hand", 0, -1, 0)


@pytest.mark.usefixtures("only_listens")
async def test_a_lock_is_taken_away_for_the_next_one(five: Five) -> None:
    """The waiter gets it with a higher fence, the holder loses it, and it is told who did that."""
    told: list[LockEvent] = []
    held = await SingleLock(five.process()[0], "door", ttl_ms=60_000, on_event=told.append).acquire(
        wait_ms=0
    )
    waiting = asyncio.create_task(
        SingleLock(five.process()[0], "door", ttl_ms=60_000).acquire(wait_ms=20_000)
    )
    await eventually(lambda: is_queued(five, 1))
    waiter = await five.outside[0].command("LINDEX", "lock:{door}:queue", 0)

    tokens = await force_release(five.outside[:1], "door", actor="root@desk", on_event=told.append)
    assert (await look_at(five.outside[0], "door")).token == waiter  # it was never free

    async with asyncio.timeout(WOKEN_S):
        lease = await waiting
    assert lease.fence > held.fence
    assert tokens == (held.token,)
    forced = told[-1]
    assert (forced.kind, forced.key, forced.token) == ("forced", "door", held.token)
    assert forced.actor == "root@desk"
    assert forced.until_ms == forced.at_ms > held.since_ms
    with pytest.raises(LockLost):
        await held.extend(60_000)
    with pytest.raises(LockLost):
        await held.release()
    assert (await look_at(five.outside[0], "door")).token == lease.token
    await lease.release()


async def test_a_free_lock_is_not_forced(five: Five) -> None:
    """Where nobody holds it nothing is told."""
    told: list[LockEvent] = []

    assert await force_release(five.outside, "door", actor="me", on_event=told.append) == ()
    assert not told


async def test_a_quorum_is_taken_away_from_all_its_holders(five: Five) -> None:
    """On five nodes each holder is told once, and the lock can be had again."""
    told: list[LockEvent] = []
    held = await redlock(five.process(), ttl_ms=60_000).acquire(wait_ms=0)
    await five.outside[4].command("SET", "lock:{door}", "another")

    tokens = await force_release(five.outside, "door", actor="me", on_event=told.append)

    assert tokens == (held.token, "another")
    assert [event.token for event in told] == [held.token, "another"]
    await (await redlock(five.process()).acquire(wait_ms=0)).release()


async def test_a_node_that_is_away_is_said(five: Five) -> None:
    """A lock on a dead node cannot be forced, and that is an error."""
    five.servers[0].kill()

    with pytest.raises(NodeError):
        await force_release(five.outside[:1], "door", actor="me", on_event=lambda _: None)


async def test_a_task_may_take_a_reentrant_lock_again(kind: str, five: Five) -> None:
    """Inside, the same lease goes on; only the end of the outermost hold releases it."""
    lock = Reentrant(make_lock(kind, five.process()))
    async with lock.hold(wait_ms=0) as outer:
        async with lock.hold(wait_ms=0) as inner:
            assert inner is outer
        assert await five.keys()
        assert not outer.holding.is_released

    assert await five.is_left_empty_by(*five.outside)
    async with lock.hold(wait_ms=0) as later:
        assert later.token != outer.token


async def test_control_without_it_a_task_waits_for_itself(kind: str, five: Five) -> None:
    """Control: the same lock, not wrapped, is not to be had twice."""
    lock = make_lock(kind, five.process())
    async with lock.hold(wait_ms=0):
        with pytest.raises(LockTimeout):
            await lock.acquire(wait_ms=50)


async def test_another_task_is_another_owner(five: Five) -> None:
    """A task that the holder starts waits like any other, and gets it afterwards."""
    lock = Reentrant(make_lock("single", five.process()))

    async def take() -> str:
        async with lock.hold(wait_ms=5_000) as lease:
            return lease.token

    async with lock.hold(wait_ms=0) as lease:
        with pytest.raises(LockTimeout):
            await asyncio.create_task(take_at_once(lock))
        taking = asyncio.create_task(take())
        await asyncio.sleep(0)

    assert await taking != lease.token


async def test_a_reentrant_lock_whose_time_is_over_is_not_taken_again(five: Five) -> None:
    """Inside a hold whose lease has ended, to take the lock once more raises LockLost."""
    lock = Reentrant(make_lock("single", five.process(), ttl_ms=100))
    async with lock.hold(wait_ms=0):
        await eventually(five.is_empty)
        with pytest.raises(LockLost):
            await take_at_once(lock)


async def test_an_error_inside_releases_a_reentrant_lock(five: Five) -> None:
    """An error in the inner body passes through both, and nothing is held or remembered."""
    nodes = five.process()
    lock = Reentrant(make_lock("single", nodes))

    async def fail() -> None:
        async with lock.hold(wait_ms=0), lock.hold(wait_ms=0):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await five.is_left_empty_by(*nodes)
    assert not lock._held


async def take_at_once(lock: Reentrant) -> None:
    async with lock.hold(wait_ms=0):
        pytest.fail("two holders")


async def is_queued(five: Five, length: int) -> bool:
    return bool(await five.outside[0].command("LLEN", "lock:{door}:queue") == length)
