"""From one holder to the next: in order, without gaps, past the dead, and without starving."""

import asyncio

import pytest

from labshop.locks import Node, SingleLock, look_at
from labshop.locks.keys import fence_key
from labshop.locks.turns import RUN
from labshop.lua import load_script
from labshop.stack.nodes import ServerNode
from tests.conftest import connected, eventually
from tests.locks.conftest import WOKEN_S, Five

QUEUE, WAITERS = "lock:{door}:queue", "lock:{door}:waiters"


def door(node: Node, *, ttl_ms: int = 10_000, barges: bool = False) -> SingleLock:
    return SingleLock(node, "door", ttl_ms=ttl_ms, barges=barges)


async def is_as_long(node: Node, length: int) -> bool:
    return bool(await node.command("LLEN", QUEUE) == length)


async def queue_up(five: Five, count: int, order: list[int]) -> list["asyncio.Task[None]"]:
    """Let as many processes wait for the door, one after the other."""

    async def visit(number: int, node: Node) -> None:
        async with door(node).hold(wait_ms=20_000):
            order.append(number)

    visits = []
    for number in range(count):
        visits.append(asyncio.create_task(visit(number, five.process()[0])))
        await eventually(lambda length=number + 1: is_as_long(five.outside[0], length))  # type: ignore[misc]  # its default
    return visits


async def test_processes_are_served_in_the_order_of_their_coming(five: Five) -> None:
    """Eight processes that came one after the other hold the lock in exactly that order."""
    order: list[int] = []
    lease = await door(five.process()[0]).acquire(wait_ms=0)
    visits = await queue_up(five, 8, order)
    assert (await look_at(five.outside[0], "door")).waiting == 8

    await lease.release()
    await asyncio.gather(*visits)

    assert order == list(range(8))
    await eventually(five.is_empty)


async def test_control_without_the_queue_the_order_is_lost(five: Five) -> None:
    """Control: processes that take the lock when it happens to be free do not keep the order."""
    order: list[int] = []
    lease = await door(five.process()[0]).acquire(wait_ms=0)
    visits = await queue_up(five, 8, order)
    await five.outside[0].command("DEL", QUEUE, WAITERS)

    newcomer = asyncio.create_task(queue_jumper(five, order))
    await lease.release()
    await asyncio.gather(*visits, newcomer)

    assert order != [*range(8), 99]


async def queue_jumper(five: Five, order: list[int]) -> None:
    async with door(five.process()[0]).hold(wait_ms=20_000):
        order.append(99)


@pytest.mark.usefixtures("only_listens")
async def test_a_release_hands_over_and_wakes(either_server: ServerNode) -> None:
    """The moment of the release is the moment of the grant: the lock is never free in between."""
    async with connected(either_server) as here:
        there, outside = (Node(either_server.url, timeout_ms=2_000) for _ in range(2))
        lease = await door(here).acquire(wait_ms=0)
        waiting = asyncio.create_task(door(there).acquire(wait_ms=20_000))
        await eventually(lambda: is_as_long(outside, 1))
        waiter = await outside.command("LINDEX", QUEUE, 0)

        await lease.release()

        # Asked on the releasing connection, so right behind the release.
        assert await here.command("GET", "lock:{door}") == waiter
        assert await here.command("PTTL", "lock:{door}") <= 10_000
        granted_fence = int(await here.command("GET", fence_key("door")))
        async with asyncio.timeout(WOKEN_S):
            next_lease = await waiting
        assert next_lease.token == waiter
        assert next_lease.fence == granted_fence > lease.fence
        await next_lease.release()
        for node in (there, outside):
            await node.close()


async def test_a_newcomer_does_not_overtake_who_waits(five: Five) -> None:
    """A lock that became free without a release goes to the first waiter, not to a newcomer."""
    order: list[int] = []
    await door(five.process()[0], ttl_ms=60_000).acquire(wait_ms=0)
    visits = await queue_up(five, 1, order)
    newcomer = asyncio.create_task(queue_jumper(five, order))
    await eventually(lambda: is_as_long(five.outside[0], 2))

    await five.outside[0].command("DEL", "lock:{door}")
    await asyncio.gather(*visits, newcomer)

    assert order == [0, 99]


@pytest.mark.parametrize("barges", [True, False], ids=["barges", "control"])
async def test_only_one_who_barges_takes_a_free_lock_from_a_queue(
    five: Five, *, barges: bool
) -> None:
    """A free lock with a waiter is taken at once by a lock that barges, and by no other."""
    order: list[int] = []
    await door(five.process()[0], ttl_ms=60_000).acquire(wait_ms=0)
    visits = await queue_up(five, 1, order)
    node = five.process()[0]
    await node.ready()

    # Over one connection, so that no other command comes in between.
    freeing = asyncio.create_task(node.command("DEL", "lock:{door}"))
    await asyncio.sleep(0)
    async with door(node, barges=barges).hold(wait_ms=20_000):
        order.append(99)
    await asyncio.gather(freeing, *visits)

    assert order == ([99, 0] if barges else [0, 99])


@pytest.mark.usefixtures("only_listens")
async def test_a_dead_waiter_at_the_head_is_skipped(either_server: ServerNode) -> None:
    """Waiters whose time is over, and tokens without a note, are passed over in the hand-over."""
    async with connected(either_server) as here:
        there = Node(either_server.url, timeout_ms=2_000)
        lease = await door(here).acquire(wait_ms=0)
        await here.command("RPUSH", QUEUE, "dead", "forgotten", "dead too")
        await here.command("HSET", WAITERS, "dead", "1 10000 nowhere", "dead too", "1 10000 there")
        waiting = asyncio.create_task(door(there).acquire(wait_ms=20_000))
        await eventually(lambda: is_as_long(here, 4))

        await lease.release()

        assert await here.command("GET", "lock:{door}") not in {"dead", "forgotten", "dead too"}
        async with asyncio.timeout(WOKEN_S):
            await (await waiting).release()
        assert await here.command("EXISTS", QUEUE, WAITERS) == 0
        await there.close()


async def test_a_grant_to_the_dead_ends_within_a_second(five: Five) -> None:
    """A waiter that seems to live and is gone has the lock for one second at most."""
    node = five.process()[0]
    lease = await door(node).acquire(wait_ms=0)
    far_off_ms = 10**15
    await node.command("RPUSH", QUEUE, "gone")
    await node.command("HSET", WAITERS, "gone", f"{far_off_ms} 10000 nowhere")

    await lease.release()

    assert await node.command("GET", "lock:{door}") == "gone"
    assert 0 < await node.command("PTTL", "lock:{door}") <= 1_000


async def test_a_lost_wake_up_is_made_good(five: Five, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the push is lost, the waiter finds within its own time that the lock is its own."""
    there = five.process()[0]
    pushed = 0

    def lose(_message: object) -> None:
        nonlocal pushed
        pushed += 1

    monkeypatch.setattr(there, "_hear", lose)
    lease = await door(five.process()[0]).acquire(wait_ms=0)
    waiting = asyncio.create_task(door(there).acquire(wait_ms=20_000))
    await eventually(lambda: is_as_long(five.outside[0], 1))

    await lease.release()

    async with asyncio.timeout(0.9):  # before the grant would have ended
        await (await waiting).release()
    assert pushed >= 1


async def test_control_without_looking_again_a_lost_wake_up_is_for_ever(
    five: Five, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the same loss, and a waiter that only listens: it does not get the free lock."""
    there = five.process()[0]
    monkeypatch.setattr(there, "_hear", lambda _message: None)
    monkeypatch.setattr("labshop.locks.claim.LOOK_AGAIN_MS", 60_000)
    lease = await door(five.process()[0], ttl_ms=60_000).acquire(wait_ms=0)
    waiting = asyncio.create_task(door(there).acquire(wait_ms=20_000))
    await eventually(lambda: is_as_long(five.outside[0], 1))

    await lease.release()

    await eventually(five.is_empty)  # the grant has ended unused
    assert not waiting.done()
    waiting.cancel()


async def test_a_process_keeps_it_for_a_bounded_run(five: Five) -> None:
    """While another process waits, at most RUN holders of one process follow each other."""
    served: list[str] = []
    here, there = five.process()[0], five.process()[0]

    async def visit(name: str, node: Node) -> None:
        async with door(node).hold(wait_ms=20_000):
            served.append(name)

    lease = await door(here).acquire(wait_ms=0)
    other = asyncio.create_task(visit("there", there))
    await eventually(lambda: is_as_long(five.outside[0], 1))
    crowd = [asyncio.create_task(visit("here", here)) for _ in range(3 * RUN)]
    await eventually(lambda: are_entered(here, 1 + 3 * RUN))

    await lease.release()
    await asyncio.gather(other, *crowd)

    assert 1 + served.index("there") == RUN  # the first holder is one of the run


async def test_alone_a_process_goes_on_without_a_gap(five: Five) -> None:
    """Where nobody else waits, the end of a run costs nothing: all are served in order."""
    here, served = five.process()[0], []

    async def visit(number: int) -> None:
        async with door(here).hold(wait_ms=20_000):
            served.append(number)

    await asyncio.gather(*(visit(number) for number in range(3 * RUN)))

    assert served == list(range(3 * RUN))


async def are_entered(node: Node, count: int) -> bool:
    return node.turns.count("door") == count


async def test_a_follower_that_cannot_ask_is_nobody_elses_fault(node: Node) -> None:
    """Whoever leaves asks for the next one; if that fails, the next one fails, and by itself."""
    holder = await SingleLock(node, "door", ttl_ms=2_000).acquire(wait_ms=0)
    broken = SingleLock(node, "door", ttl_ms=2_000)
    broken.ttl_ms = object()  # type: ignore[assignment]  # what no command can carry
    following = asyncio.create_task(broken.acquire(wait_ms=5_000))
    await eventually(lambda: waits(node, 2))

    await holder.release()

    with pytest.raises(TypeError):
        await following
    async with SingleLock(node, "door", ttl_ms=2_000).hold(wait_ms=0):
        pass
    assert len(node.turns) == 0


async def test_cancelled_in_the_moment_of_its_turn_it_is_not_asked_for_again(node: Node) -> None:
    """Its request was sent by whoever left, and met a node that had lost the script: the source
    must not be sent behind the undoing, or the lock is held by nobody for its whole time.
    """
    lock = SingleLock(node, "door", ttl_ms=60_000)
    async with lock.hold(wait_ms=0):
        pass  # both scripts are known from here on, and sent by their hashes
    holder = await lock.acquire(wait_ms=0)
    following = asyncio.create_task(lock.acquire(wait_ms=5_000))
    await eventually(lambda: waits(node, 2))
    await node.command("SCRIPT", "FLUSH")
    await node.command("SCRIPT", "LOAD", load_script("labshop.locks", "release_locks").source)

    releasing = asyncio.create_task(holder.release())
    await asyncio.sleep(0)  # both requests are on their way, and the turn has come
    following.cancel()
    await asyncio.gather(releasing, following, return_exceptions=True)
    for _ in range(3):
        await node.command("PING")  # what was to be sent again has been

    assert following.cancelled()
    assert await node.command("EXISTS", "lock:{door}") == 0
    assert len(node.turns) == 0


async def waits(node: Node, count: int) -> bool:
    """Whether so many tasks of this process have the lock or wait for it."""
    return node.turns.count("door") == count
