"""A quorum's lease: how long it is valid, how it is shared out, prolonged, and given back."""

import asyncio
from collections.abc import Sequence

import pytest

from labshop.clock import SystemClock
from labshop.locks import HeldLease, LockEvent, LockExpired, LockLost, LockTimeout, Node, NoQuorum
from labshop.lua import load_script
from tests.conftest import eventually
from tests.locks.conftest import NAMES, SHORT_MS, WOKEN_S, Five, HandClock, is_heard, redlock

DRIFT_MS = 22
"""Of a time to live of two seconds: one percent of it, and two milliseconds."""


@pytest.mark.parametrize("elapsed_ms", [0, 500, 2_000 - DRIFT_MS - 1])
async def test_it_is_valid_for_its_time_less_what_asking_took_less_the_drift(
    five: Five, elapsed_ms: int
) -> None:
    """Of 2000 ms, what has elapsed and 22 ms of drift are gone when the lease is handed out."""
    clock = HandClock()

    async def ask_for_a_fence(_key: str) -> int:
        clock.ms += elapsed_ms
        return 7

    lock = redlock(five.process(), next_fence=ask_for_a_fence, clock=clock)
    lease = await lock.acquire(wait_ms=0)

    assert lease.remaining_ms() == 2_000 - DRIFT_MS - elapsed_ms
    assert lease.fence == 7
    await lease.release()


@pytest.mark.parametrize("late_ms", [0, 1])
async def test_with_nothing_left_it_was_not_granted(five: Five, late_ms: int) -> None:
    """A grant that has exactly nothing left, or less, is LockExpired, and is taken back."""
    clock, nodes = HandClock(), five.process()

    async def ask_for_a_fence(_key: str) -> int:
        clock.ms += 2_000 - DRIFT_MS + late_ms
        return 7

    with pytest.raises(LockExpired) as late:
        await redlock(nodes, next_fence=ask_for_a_fence, clock=clock).acquire(wait_ms=0)

    assert (late.value.ttl_ms, late.value.elapsed_ms) == (2_000, 2_000 - DRIFT_MS + late_ms)
    assert await five.is_left_empty_by(*nodes)


async def test_nodes_that_answer_after_the_end_grant_nothing(five: Five) -> None:
    """Three nodes hang for longer than the lease: their late yes is LockExpired, and undone."""
    nodes = five.process()
    await asyncio.gather(*map(is_heard, nodes))
    for server in five.servers[:3]:
        server.freeze()
    acquiring = asyncio.create_task(redlock(nodes, ttl_ms=150).acquire(wait_ms=0))
    await SystemClock().sleep_ms(200)  # the lease's time passes
    for server in five.servers[:3]:
        server.thaw()

    with pytest.raises(LockExpired):
        await acquiring

    assert await five.is_left_empty_by(*nodes)


async def test_the_fence_is_somebody_elses_to_give(five: Five) -> None:
    """Each lease carries the number that was asked for it, after a majority had agreed."""
    keys: list[str] = []

    async def ask_for_a_fence(key: str) -> int:
        assert (await five.tokens()).count("") <= 2
        keys.append(key)
        return 100 + len(keys)

    lock = redlock(five.process(), next_fence=ask_for_a_fence)
    fences = []
    for _ in range(2):
        async with lock.hold(wait_ms=0) as lease:
            fences.append(lease.fence)
    async with redlock(five.process()).hold(wait_ms=0) as lease:
        fences.append(lease.fence)

    assert fences == [101, 102, 0]
    assert keys == ["door", "door"]


@pytest.mark.parametrize("error", [ZeroDivisionError, TimeoutError])
async def test_a_fence_that_cannot_be_had_gives_the_votes_back(
    five: Five, error: type[Exception]
) -> None:
    """An error of whoever gives the fences reaches the caller as it is, and nothing is held."""

    async def fail(_key: str) -> int:
        raise error

    nodes = five.process()
    with pytest.raises(error):
        await redlock(nodes, next_fence=fail).acquire(wait_ms=0)

    assert await five.is_left_empty_by(*nodes)


async def test_a_fence_that_never_comes_is_waited_for_no_longer_than_the_lease(five: Five) -> None:
    """Whoever gives the fences hangs: the lock is not had, and the next task of this process is."""
    nodes = five.process()
    hanging = redlock(nodes, ttl_ms=SHORT_MS, next_fence=lambda _key: asyncio.Future())

    with pytest.raises(LockExpired):
        await hanging.acquire(wait_ms=0)
    async with redlock(nodes).hold(wait_ms=5_000):
        pass

    assert await five.is_left_empty_by(*nodes)


@pytest.mark.parametrize("protected", [True, False], ids=["undone", "control"])
async def test_a_straggler_is_undone(
    five: Five, monkeypatch: pytest.MonkeyPatch, *, protected: bool
) -> None:
    """A vote that arrives after the decision, even after the release, is taken back.

    Control: where only nodes that had said yes are asked to give back, it stays.
    """
    nodes = five.process(timeout_ms=5_000)
    await asyncio.gather(*map(is_heard, nodes))
    five.servers[4].freeze()
    lease = await redlock(nodes, ttl_ms=60_000).acquire(wait_ms=0)
    if not protected:
        monkeypatch.setattr(nodes[4], "post", lambda *_, **__: asyncio.Future())
    await lease.release()
    five.servers[4].thaw()

    assert await five.is_left_empty_by(*nodes) is protected


async def test_a_node_that_is_reached_after_the_release_is_not_asked(five: Five) -> None:
    """A node whose connection comes up only after the lock was released gets no vote to undo."""
    nodes = five.process(timeout_ms=5_000)
    five.servers[4].freeze()
    lease = await redlock(nodes, ttl_ms=60_000).acquire(wait_ms=0)
    await lease.release()
    five.servers[4].thaw()

    assert await five.is_left_empty_by(*nodes)
    assert nodes[4]._wire is not None
    assert nodes[4]._wire.scripts == set()  # neither the vote's nor the undoing's


async def test_a_vote_that_lost_its_script_is_not_cast_after_its_undoing(five: Five) -> None:
    """A node that knows the undoing's script and not the vote's answers NOSCRIPT too late: the
    vote must not be sent again behind its own undoing.
    """
    nodes = five.process(client="here")
    async with redlock(nodes).hold(wait_ms=0):
        pass  # all nodes know both scripts, as far as this process knows
    await asyncio.gather(*map(is_heard, nodes))
    forgetful = five.outside[4]
    await forgetful.command("SCRIPT", "FLUSH")
    await forgetful.command("SCRIPT", "LOAD", load_script("labshop.locks", "release_vote").source)

    with five.network.delayed(100, client="here", server=NAMES[4]):
        async with redlock(nodes, ttl_ms=60_000).hold(wait_ms=0):
            pass
        assert await five.is_left_empty_by(*nodes)


@pytest.mark.parametrize("dice", ["random", "loaded"])
async def test_a_split_vote_is_healed_by_chance(
    five: Five, monkeypatch: pytest.MonkeyPatch, dice: str
) -> None:
    """Of four living nodes, two are near to each client, so each gets two votes: in the end, for
    each waits for a random time, both get the lock.

    Control: with pauses that are always equally long, they split the votes again and again.
    """
    if dice == "loaded":
        monkeypatch.setattr("labshop.locks.quorum.random.uniform", lambda _least, most: most)
    far = {"left": NAMES[2:4], "right": NAMES[:2]}
    barrier = asyncio.Barrier(2)
    five.servers[4].kill()

    async def compete(client: str) -> bool:
        nodes = five.process(timeout_ms=5_000, client=client)
        await asyncio.gather(*map(is_heard, nodes[:4]))
        lock = redlock(nodes, retry_ms=(1, 400))
        with five.network.delayed(200, client=client, server=far[client]):
            await barrier.wait()
            try:
                lease = await lock.acquire(wait_ms=1_500 if dice == "loaded" else 15_000)
            except LockTimeout:
                return False
            await lease.release()
        return True

    granted = await asyncio.gather(*map(compete, far))

    assert (granted == [True, True]) is (dice == "random")


@pytest.mark.usefixtures("only_listens")
async def test_a_release_wakes_who_was_refused(five: Five) -> None:
    """A waiter of another process learns of the release, rather than of its next random try."""
    lease, waiting = await held_and_waited_for(five, five.process())

    await lease.release()

    async with asyncio.timeout(WOKEN_S):
        await (await waiting).release()


async def test_a_lost_wake_up_of_a_quorum_is_made_good(
    five: Five, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no push arrives, the waiter tries again by itself."""
    there = five.process()
    for node in there:
        monkeypatch.setattr(node, "_hear", lambda _message: None)
    lease, waiting = await held_and_waited_for(five, there)

    await lease.release()

    async with asyncio.timeout(WOKEN_S):
        await (await waiting).release()


async def held_and_waited_for(
    five: Five, there: Sequence[Node]
) -> tuple[HeldLease, asyncio.Task[HeldLease]]:
    """A lease, and another process that has been refused by each of the five, and waits."""
    here = five.process()
    # Nodes that connect after the decision would have a vote to give to the waiter.
    await asyncio.gather(*map(is_heard, [*here, *there]))
    lease = await redlock(here, ttl_ms=60_000).acquire(wait_ms=0)
    await eventually(lambda: all_voted(five))
    waiting = asyncio.create_task(
        redlock(there, ttl_ms=60_000, retry_ms=(1, 2)).acquire(wait_ms=20_000)
    )
    await eventually(lambda: are_told(five, 5))
    return lease, waiting


async def all_voted(five: Five) -> bool:
    return all(await five.tokens())


async def are_told(five: Five, count: int) -> bool:
    return (await five.keys()).count("lock:{door}:waiters") == count


@pytest.mark.parametrize("alive", [3, 2])
async def test_an_extension_needs_a_majority(five: Five, alive: int) -> None:
    """With three nodes left a lease is prolonged; with two it is not, and stands as it was."""
    nodes = five.process(timeout_ms=SHORT_MS)
    await asyncio.gather(*map(is_heard, nodes))
    events: list[LockEvent] = []
    lease = await redlock(nodes, on_event=events.append).acquire(wait_ms=0)
    for server in five.servers[alive:]:
        server.freeze()
    before_ms = lease.holding.deadline_ms
    try:
        if alive == 3:
            longer = await lease.extend(5_000)
            assert longer.deadline_ms - before_ms > 2_000
            assert longer.remaining_ms() < 5_000 - 52  # one percent of it, and as before
        else:
            with pytest.raises(NoQuorum) as refusal:
                await lease.extend(5_000)
            assert set(refusal.value.nodes) == {node.name for node in nodes[alive:]}
            assert lease.holding.deadline_ms == before_ms
            assert not lease.lost.is_set()
    finally:
        for server in five.servers:
            server.thaw()


@pytest.mark.parametrize("stolen", [2, 3])
async def test_a_lease_is_lost_with_the_majority(five: Five, stolen: int) -> None:
    """Two votes that others have by now do not matter; with three the lease is lost."""
    lease = await redlock(five.process()).acquire(wait_ms=0)
    for node in five.outside[:stolen]:
        await node.command("SET", "lock:{door}", "thief")

    if stolen == 2:
        await (await lease.extend(5_000)).release()
    else:
        with pytest.raises(LockLost):
            await lease.extend(5_000)
        with pytest.raises(LockLost):
            await lease.release()


async def test_an_extension_that_comes_after_the_end_is_too_late(five: Five) -> None:
    """A majority says yes, but after the old deadline: somebody may have had it since."""
    clock = HandClock()
    nodes = five.process()
    await asyncio.gather(*map(is_heard, nodes))
    lease = await redlock(nodes, clock=clock).acquire(wait_ms=0)
    extending = asyncio.create_task(lease.extend(5_000))
    await asyncio.sleep(0)
    clock.ms = lease.deadline_ms

    with pytest.raises(LockLost):
        await extending

    assert lease.lost.is_set()
