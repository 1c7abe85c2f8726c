"""What every lock promises, whatever it is made of; each race with its control."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from labshop.locks import LockEvent, LockLost, LockTimeout, Node
from tests.conftest import eventually
from tests.locks.conftest import AnyLock, Five, holder_keys, make_lock


async def test_it_is_held_and_then_free(kind: str, five: Five) -> None:
    """Within the body exactly the lock's keys are there; afterwards nothing is."""
    async with make_lock(kind, five.process()).hold(wait_ms=0) as lease:
        assert 0 < lease.remaining_ms() <= 2_000
        await eventually(lambda: are_there(five, holder_keys(kind)))

    await eventually(five.is_empty)


async def test_it_is_released_when_the_body_raises(kind: str, five: Five) -> None:
    """An error in the body passes through as it is, and the lock is free."""
    with pytest.raises(ZeroDivisionError):
        async with make_lock(kind, five.process()).hold(wait_ms=0):
            raise ZeroDivisionError

    await eventually(five.is_empty)


async def test_another_process_is_kept_out_and_gets_it_afterwards(kind: str, five: Five) -> None:
    """While it is held, another process is refused; after the release it is granted at once."""
    here, there = (make_lock(kind, five.process()) for _ in range(2))
    async with here.hold(wait_ms=0):
        with pytest.raises(LockTimeout) as refusal:
            await there.acquire(wait_ms=0)
        with pytest.raises(LockTimeout):
            await there.acquire(wait_ms=30)

    assert refusal.value.definite
    await (await there.acquire(wait_ms=0)).release()


@pytest.mark.parametrize("protected", [True, False], ids=["locked", "control"])
async def test_counts_are_lost_only_without_the_lock(
    kind: str, five: Five, *, protected: bool
) -> None:
    """Tasks of two processes that read, wait and write back under the lock lose no count;
    control: without the lock they do.
    """
    places = [five.process(), five.process()]
    locks = [make_lock(kind, place) for place in places]

    async def count(lock: AnyLock, node: Node) -> None:
        async with lock.hold(wait_ms=20_000) if protected else nothing():
            seen = int(await node.command("GET", "count") or 0)
            await asyncio.sleep(0)  # lets the others read before this one writes
            await node.command("SET", "count", seen + 1)

    await asyncio.gather(
        *(count(locks[n % 2], places[n % 2][0]) for n in range(40)), return_exceptions=False
    )

    counted = int(await five.outside[0].command("GET", "count"))
    assert counted == 40 if protected else counted < 40


async def test_tasks_of_one_process_are_served_in_order(kind: str, five: Five) -> None:
    """Tasks that ask one after the other hold the lock in exactly that order."""
    order: list[int] = []
    nodes = five.process()
    lock = make_lock(kind, nodes)

    async def visit(number: int) -> None:
        async with lock.hold(wait_ms=10_000):
            order.append(number)

    await asyncio.gather(*(visit(number) for number in range(30)))

    assert order == list(range(30))
    assert is_forgotten(nodes)


async def test_a_lease_that_ran_out_is_lost(kind: str, five: Five) -> None:
    """A holder whose lease ran out cannot extend it, and does not free the next one's lock."""
    events: list[LockEvent] = []
    late = await make_lock(kind, five.process(), ttl_ms=100, on_event=events.append).acquire(
        wait_ms=0
    )
    await eventually(five.is_empty)
    lease = await make_lock(kind, five.process()).acquire(wait_ms=0)

    with pytest.raises(LockLost) as loss:
        await late.extend(2_000)
    with pytest.raises(LockLost):
        await late.release()

    assert late.lost.is_set()
    assert loss.value.definite
    assert {event.kind for event in events[-len(events) // 2 :]} == {"lost"}
    await eventually(lambda: are_there(five, holder_keys(kind)))
    await lease.release()
    await eventually(five.is_empty)


async def test_control_a_release_that_does_not_compare_frees_anothers_lock(
    kind: str, five: Five
) -> None:
    """Control: the same pause, and a release by DEL: the next one's lock is gone."""
    nodes = five.process()
    await make_lock(kind, nodes, ttl_ms=100).acquire(wait_ms=0)
    await eventually(five.is_empty)
    lease = await make_lock(kind, five.process()).acquire(wait_ms=0)

    for node in nodes:
        await node.command("DEL", *holder_keys(kind))

    assert await five.is_empty()
    with pytest.raises(LockLost):
        await lease.release()


async def test_a_waiter_gets_it_when_the_lease_of_a_dead_holder_ends(kind: str, five: Five) -> None:
    """A holder that died without a word blocks a waiter for its time to live, and not longer."""
    dead = five.process()
    lease = await make_lock(kind, dead, ttl_ms=300).acquire(wait_ms=0)
    for node in dead:
        await node.close()

    next_lease = await make_lock(kind, five.process()).acquire(wait_ms=5_000)

    assert -250 < lease.remaining_ms() <= 0
    await next_lease.release()


async def test_a_task_that_hangs_keeps_nobody_waiting_beyond_its_lease(
    kind: str, five: Five
) -> None:
    """A holder that never releases blocks the tasks of its own process for its time to live too."""
    nodes = five.process()
    hung = await make_lock(kind, nodes, ttl_ms=300).acquire(wait_ms=0)

    lease = await make_lock(kind, nodes).acquire(wait_ms=5_000)

    assert -250 < hung.remaining_ms() <= 0
    with pytest.raises(LockLost):
        await hung.release()
    await lease.extend(3_000)  # it was not released with the other
    await lease.release()
    assert await five.is_left_empty_by(*nodes)
    assert is_forgotten(nodes)


async def test_it_waits_no_longer_than_it_was_told(kind: str, five: Five) -> None:
    """The wait for a lock that stays held ends when it should."""
    loop = asyncio.get_running_loop()
    async with make_lock(kind, five.process()).hold(wait_ms=0):
        began_s = loop.time()
        with pytest.raises(LockTimeout) as refusal:
            await make_lock(kind, five.process()).acquire(wait_ms=300)

    assert refusal.value.wait_ms == pytest.approx(300, abs=50)
    assert 0.29 < loop.time() - began_s < 1.0


async def test_the_scripts_survive_a_script_flush(kind: str, five: Five) -> None:
    """Servers that lose their scripts in mid-lease are given them again."""
    lock = make_lock(kind, five.process())
    for _ in range(3):
        async with lock.hold(wait_ms=0) as lease:
            await lease.extend(2_000)
            for node in five.outside:
                await node.command("SCRIPT", "FLUSH")
        await eventually(five.is_empty)


async def test_every_change_is_told(kind: str, five: Five) -> None:
    """Waiting, acquired, extended, released, timed out: each key's events come in order."""
    events: list[LockEvent] = []
    here, there = (make_lock(kind, five.process(), on_event=events.append) for _ in range(2))
    async with here.hold(wait_ms=0) as lease:
        longer = await lease.extend(3_000)
        with pytest.raises(LockTimeout):
            await there.acquire(wait_ms=20)

    keys = sorted({event.key for event in events if event.token == lease.token})
    first = [it for it in events if it.token == lease.token and it.key == keys[0]]
    assert [event.kind for event in first] == ["acquired", "extended", "released"]
    assert first[0].until_ms < first[1].until_ms
    assert longer.deadline_ms <= first[1].until_ms
    assert 0 < first[2].held_ms == first[2].until_ms - lease.since_ms
    others = [event for event in events if event.token != lease.token and event.key == keys[0]]
    assert [event.kind for event in others] == ["waiting", "timed_out"]
    assert others[1].waited_ms == pytest.approx(20, abs=15)


async def test_a_listener_that_fails_leaves_no_lock(kind: str, five: Five) -> None:
    """An error in the hook reaches the caller, and the lock is free."""

    def fail(_event: LockEvent) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await make_lock(kind, five.process(), ttl_ms=60_000, on_event=fail).acquire(wait_ms=0)

    await eventually(five.is_empty)


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


async def are_there(five: Five, keys: Sequence[str]) -> bool:
    return await five.keys() == sorted(keys)


def is_forgotten(nodes: Sequence[Node]) -> bool:
    return not any(len(node.turns) or node._wakes for node in nodes)
