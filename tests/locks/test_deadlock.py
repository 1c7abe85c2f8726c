"""A cycle of owners is found and broken, in one process and among several; nothing else is."""

import asyncio

import pytest

from labshop.locks import DeadlockError, LockEvent, LockTimeout, Node, SingleLock, WaitForGraph
from labshop.locks.deadlock import Owner
from tests.conftest import eventually
from tests.locks.conftest import Five, Start, heard, redlock, tell

WAITS = "{deadlock:locks}:waits"
HOLDS = "{deadlock:locks}:holds"


def lock_on(node: Node, key: str, *, ttl_ms: int = 30_000) -> SingleLock:
    return SingleLock(node, key, ttl_ms=ttl_ms)


async def are_waiting(five: Five, count: int) -> bool:
    return bool(await five.outside[0].command("HLEN", WAITS) == count)


class Buyer:
    """An owner who holds one lock, and wants another inside."""

    def __init__(self, owner: Owner, node: Node, first: str, second: str) -> None:
        self.owner = owner
        self.first, self.second = (owner.watch(lock_on(node, key)) for key in (first, second))
        self.holds, self.goes_on = asyncio.Event(), asyncio.Event()

    async def buy(self, wait_ms: int = 10_000) -> str:
        """Take both; returns how that went."""
        async with self.first.hold(wait_ms=wait_ms):
            self.holds.set()
            await self.goes_on.wait()
            async with self.second.hold(wait_ms=wait_ms):
                return "both"


async def close_a_cycle(
    five: Five, buyers: list[Buyer], *, watched: bool = True
) -> list[str | BaseException]:
    """Let each buyer hold its first lock, then want its second, one after the other."""
    buying = [asyncio.create_task(buyer.buy()) for buyer in buyers]
    await asyncio.gather(*(buyer.holds.wait() for buyer in buyers))
    for number, buyer in enumerate(buyers, start=1):
        buyer.goes_on.set()
        if number < len(buyers):
            await eventually(lambda number=number: are_waiting(five, number))  # type: ignore[misc]  # its default
    return await asyncio.gather(*buying, return_exceptions=True)


@pytest.mark.parametrize("places", [1, 2], ids=["one process", "two connections"])
async def test_of_two_in_opposite_orders_the_younger_gives_way(five: Five, places: int) -> None:
    """The one who began to wait last is told who waits for what, and the other one gets both."""
    events: list[LockEvent] = []
    nodes = [five.process()[0] for _ in range(places)]
    graphs = [WaitForGraph(node, on_event=events.append) for node in nodes]
    orders = [("a", "b"), ("b", "a")]
    buyers = [
        Buyer(graphs[n % places].owner(f"buyer {n}"), nodes[n % places], *orders[n])
        for n in range(2)
    ]
    old, young = (buyer.owner.name for buyer in buyers)

    async with asyncio.timeout(2):
        outcomes = await close_a_cycle(five, buyers)

    assert outcomes[0] == "both"
    error = outcomes[1]
    assert isinstance(error, DeadlockError)
    assert error.owner == young
    assert error.cycle == ((young, "a"), (old, "b"))
    assert error.definite
    assert f"{old} waits for b" in str(error)
    assert [(it.kind, it.key, it.token) for it in events] == [("deadlocked", "a", young)]
    await eventually(lambda: is_forgotten(five))


async def test_a_cycle_of_three_is_broken_once(five: Five) -> None:
    """Of three who each want what the next one holds, one gives way, and two get both."""
    nodes = [five.process()[0] for _ in range(3)]
    buyers = [
        Buyer(WaitForGraph(nodes[n]).owner(f"buyer {n}"), nodes[n], "abc"[n], "abc"[(n + 1) % 3])
        for n in range(3)
    ]
    async with asyncio.timeout(3):
        outcomes = await close_a_cycle(five, buyers)

    assert outcomes[:2] == ["both", "both"]
    assert isinstance(outcomes[2], DeadlockError)
    assert {who for who, _ in outcomes[2].cycle} == {buyer.owner.name for buyer in buyers}
    assert [what for _, what in outcomes[2].cycle] == ["a", "b", "c"]


async def test_an_older_one_that_closes_the_cycle_makes_the_younger_give_way(five: Five) -> None:
    """It is not who closes the cycle that gives way, but who began to wait last of all."""
    (node, *_) = five.process()
    graph = WaitForGraph(node)
    old, young = graph.owner("old"), graph.owner("young")
    with pytest.raises(LockTimeout):
        async with lock_on(node, "x").hold(wait_ms=0):
            await old.watch(lock_on(node, "x")).acquire(wait_ms=20)  # it waited once before
    await (await old.watch(lock_on(node, "x")).acquire(wait_ms=0)).release()
    buyers = [Buyer(young, node, "b", "a"), Buyer(old, node, "a", "b")]

    async with asyncio.timeout(2):
        outcomes = await close_a_cycle(five, buyers)

    assert isinstance(outcomes[0], DeadlockError)
    assert outcomes[1] == "both"


@pytest.mark.parametrize("watched", ["watched", "unwatched"])
async def test_two_processes_in_opposite_orders(five: Five, start: Start, watched: str) -> None:
    """One of two processes gives way and the other gets both; control: without the detector they
    wait until their time is over.
    """
    url = five.servers[0].url
    processes = [await start("cross", url, *order, watched) for order in (("a", "b"), ("b", "a"))]
    for process in processes:
        tell(process)
        assert await heard(process) == "held"
    for process in processes:
        tell(process)
    words = [await heard(process) for process in processes]

    if watched == "watched":
        assert "both" in words
        assert any(word.startswith("DeadlockError: visitor") for word in words)
    else:
        assert any(word.startswith("LockTimeout") for word in words)
        assert not any(word.startswith("DeadlockError") for word in words)


async def test_control_without_the_detector_they_wait_until_their_time_is_over(
    five: Five,
) -> None:
    """Control: the same two buyers without a graph: neither gets its second lock in time."""
    (node, *_) = five.process()
    barrier = asyncio.Barrier(2)

    async def buy(first: str, second: str) -> None:
        async with lock_on(node, first).hold(wait_ms=0):
            await barrier.wait()
            try:
                await lock_on(node, second).acquire(wait_ms=400)
            finally:
                await barrier.wait()

    outcomes = await asyncio.gather(buy("a", "b"), buy("b", "a"), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [LockTimeout, LockTimeout]


async def test_a_chain_is_no_cycle(five: Five) -> None:
    """Who waits for one who waits for one who goes on is served, and nobody gives way."""
    (node, *_) = five.process()
    graph = WaitForGraph(node)
    last = await graph.owner("last").watch(lock_on(node, "c")).acquire(wait_ms=0)
    buyers = [Buyer(graph.owner(f"buyer {n}"), node, "ab"[n], "bc"[n]) for n in range(2)]
    buying = [asyncio.create_task(buyer.buy()) for buyer in buyers]
    for buyer in buyers:
        await buyer.holds.wait()
        buyer.goes_on.set()
    await eventually(lambda: are_waiting(five, 2))

    await last.release()

    assert await asyncio.gather(*buying) == ["both", "both"]


async def test_what_was_released_closes_no_cycle(five: Five) -> None:
    """An owner that has released a lock is not waited for, although it held it a moment ago."""
    (node, *_) = five.process()
    graph = WaitForGraph(node)
    one, other = graph.owner("one"), graph.owner("other")
    for _ in range(20):
        async with one.watch(lock_on(node, "a")).hold(wait_ms=0):
            pass
        held = await other.watch(lock_on(node, "a")).acquire(wait_ms=0)
        async with other.watch(lock_on(node, "b")).hold(wait_ms=0):
            waiting = asyncio.create_task(one.watch(lock_on(node, "b")).acquire(wait_ms=5_000))
            await eventually(lambda: are_waiting(five, 1))
            await held.release()
        await (await waiting).release()

    assert await five.outside[0].command("HLEN", HOLDS) == 0


async def test_a_crashed_owner_closes_no_cycle(five: Five, start: Start) -> None:
    """An owner that died while it waited is not believed for long: who waits for its lock gets it
    when the lease ends.
    """
    (node, *_), outside = five.process(), five.outside[0]
    owner = WaitForGraph(node).owner("survivor")
    mine = await owner.watch(lock_on(node, "a")).acquire(wait_ms=0)
    process = await start("cross", five.servers[0].url, "b", "a", "watched")
    tell(process)
    assert await heard(process) == "held"
    tell(process)
    await eventually(lambda: are_waiting(five, 1))
    process.kill()
    await process.wait()
    await eventually(lambda: is_stale(five))

    waiting = asyncio.create_task(owner.watch(lock_on(node, "b")).acquire(wait_ms=10_000))
    await eventually(lambda: are_waiting(five, 2))
    await outside.command("PEXPIRE", "lock:{b}", 300)

    await (await waiting).release()
    await mine.release()


async def test_without_its_node_the_graph_is_no_obstacle(five: Five) -> None:
    """The graph's node is dead: locks are granted, waited for, and released as ever."""
    nodes = five.process(timeout_ms=200)
    five.servers[4].kill()
    graph = WaitForGraph(nodes[4])
    lease = await graph.owner("one").watch(lock_on(nodes[0], "a")).acquire(wait_ms=0)
    waiting = asyncio.create_task(
        graph.owner("two").watch(lock_on(nodes[0], "a")).acquire(wait_ms=5_000)
    )
    await eventually(lambda: is_queued(nodes[0], 2))
    await lease.release()

    await (await waiting).release()


async def test_a_quorum_can_be_watched(five: Five) -> None:
    """Locks on five nodes, taken in opposite orders, are seen in the graph of one of them."""
    nodes = five.process()
    graph = WaitForGraph(nodes[0])
    barrier = asyncio.Barrier(2)

    async def buy(first: str, second: str) -> str:
        owner = graph.owner(first)
        async with owner.watch(redlock(nodes, key=first, ttl_ms=10_000)).hold(wait_ms=0):
            await barrier.wait()
            async with owner.watch(redlock(nodes, key=second, ttl_ms=10_000)).hold(wait_ms=5_000):
                return "both"

    async with asyncio.timeout(3):
        outcomes = await asyncio.gather(buy("a", "b"), buy("b", "a"), return_exceptions=True)

    assert "both" in outcomes
    assert any(isinstance(outcome, DeadlockError) for outcome in outcomes)


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_cancelled_while_it_waits_it_leaves_no_note(five: Five, turns: int) -> None:
    """However far a watched wait has come, cancelled it leaves no lock and no arrow."""
    nodes = five.process()
    graph = WaitForGraph(nodes[0])
    lease = await graph.owner("holder").watch(lock_on(nodes[0], "a")).acquire(wait_ms=0)
    for _ in range(5):
        owner = graph.owner("waiter")
        waiting = asyncio.create_task(owner.watch(lock_on(nodes[0], "a")).acquire(wait_ms=5_000))
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await lease.release()

    assert await five.is_left_empty_by(*nodes)
    await eventually(lambda: is_forgotten(five))
    assert not nodes[0]._wakes


async def is_forgotten(five: Five) -> bool:
    return bool(await five.outside[0].command("EXISTS", WAITS, HOLDS) == 0)


async def is_stale(five: Five) -> bool:
    (note,) = await five.outside[0].command("HVALS", WAITS)
    seconds, microseconds = await five.outside[0].command("TIME")
    return float(note.split()[0]) < int(seconds) * 1_000_000 + int(microseconds)


async def is_queued(node: Node, count: int) -> bool:
    return node.turns.count("a") == count
