"""Several processes at one lock: counting together, dying while they wait, taking their turns."""

import asyncio

import pytest

from labshop.locks import Node, SingleLock, look_at
from tests.conftest import eventually
from tests.locks.conftest import Five, Start, heard, tell

PROCESSES, TASKS = 5, 50


@pytest.mark.parametrize("protected", [True, False], ids=["locked", "control"])
async def test_fifty_tasks_of_five_processes_lose_no_count(
    five: Five, start: Start, *, protected: bool
) -> None:
    """Read, wait, write under the lock: 250 tasks count to 250, and each process has its turns.

    Control: a lock of each process' own does not keep the others out.
    """
    url = five.servers[0].url
    processes = await asyncio.gather(
        *(
            start("count", url, "door" if protected else f"door {number}", TASKS, 1)
            for number in range(PROCESSES)
        )
    )
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for process in processes:
        tell(process)
    waits_ms = [float(await heard(process)) for process in processes]
    total_ms = (loop.time() - began_s) * 1_000

    counted = int(await five.outside[0].command("GET", "count"))
    assert counted == PROCESSES * TASKS if protected else counted < PROCESSES * TASKS
    if protected:
        # Nobody was served as a whole before somebody else began.
        assert min(waits_ms) > total_ms / 3
    await eventually(five.is_empty)


async def test_processes_take_turns(five: Five) -> None:
    """Of five processes that all want more, none is served three times its share."""
    served: list[int] = []

    async def visit(number: int, node: Node) -> None:
        for _ in range(3):
            async with SingleLock(node, "door", ttl_ms=5_000).hold(wait_ms=60_000):
                served.append(number)

    places = [five.process()[0] for _ in range(PROCESSES)]
    for node in places:
        await node.ready()
    await asyncio.gather(*(visit(n, node) for n, node in enumerate(places) for _ in range(40)))

    half = served[: len(served) // 2]
    shares = [half.count(number) for number in range(PROCESSES)]
    assert len(served) == PROCESSES * 40 * 3
    assert min(shares) * 3 > max(shares)


async def test_a_waiter_that_was_killed_is_skipped(five: Five, start: Start) -> None:
    """A process that died in the queue is passed over at the release, once it counts as dead."""
    url, outside = five.servers[0].url, five.outside[0]
    lease = await SingleLock(five.process()[0], "door", ttl_ms=60_000).acquire(wait_ms=0)
    dead, living = (
        await start("take", url, "door", 60_000),
        await start("take", url, "door", 60_000),
    )
    for length, process in ((1, dead), (2, living)):
        tell(process)
        await eventually(lambda length=length: is_as_long(outside, length))  # type: ignore[misc]  # its default
    first = await outside.command("LINDEX", "lock:{door}:queue", 0)
    dead.kill()
    await eventually(lambda: counts_as_dead(outside, first))

    await lease.release()

    token = (await look_at(outside, "door")).token
    assert token != first
    assert await heard(living) == token
    tell(living)
    await eventually(five.is_empty)


async def test_a_waiter_that_died_a_moment_ago_blocks_for_a_second_at_most(
    five: Five, start: Start
) -> None:
    """A grant to a waiter that is not there any more ends by itself, and the next one gets it."""
    url, outside = five.servers[0].url, five.outside[0]
    lease = await SingleLock(five.process()[0], "door", ttl_ms=60_000).acquire(wait_ms=0)
    dead, living = (
        await start("take", url, "door", 60_000),
        await start("take", url, "door", 60_000),
    )
    for length, process in ((1, dead), (2, living)):
        tell(process)
        await eventually(lambda length=length: is_as_long(outside, length))  # type: ignore[misc]  # its default
    first = await outside.command("LINDEX", "lock:{door}:queue", 0)
    dead.kill()
    await dead.wait()

    await lease.release()

    state = await look_at(outside, "door")
    assert state.token == first
    assert state.remaining_ms <= 1_000
    async with asyncio.timeout(2.5):
        assert await heard(living) == (await look_at(outside, "door")).token


async def test_a_holder_that_was_killed_blocks_until_its_lease_ends(
    five: Five, start: Start
) -> None:
    """A crash frees nothing before its time; cut short, it is over for the waiter too."""
    outside = five.outside[0]
    holder = await start("hold", five.servers[0].url, "door")
    tell(holder)
    assert await heard(holder) == "held"
    holder.kill()
    await holder.wait()
    assert (await look_at(outside, "door")).remaining_ms > 10_000
    waiting = asyncio.create_task(
        SingleLock(five.process()[0], "door", ttl_ms=1_000).acquire(wait_ms=20_000)
    )
    await eventually(lambda: is_as_long(outside, 1))
    await outside.command("PEXPIRE", "lock:{door}", 30)

    async with asyncio.timeout(2):
        await (await waiting).release()


async def is_as_long(node: Node, length: int) -> bool:
    return bool(await node.command("LLEN", "lock:{door}:queue") == length)


async def counts_as_dead(node: Node, token: str) -> bool:
    told = await node.command("HGET", "lock:{door}:waiters", token)
    seconds, microseconds = await node.command("TIME")
    return float(told.split()[0]) < int(seconds) * 1_000 + int(microseconds) / 1_000
