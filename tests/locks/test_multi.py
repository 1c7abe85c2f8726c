"""Several locks at once: all or none, in one order, within one time."""

import asyncio

import pytest

from labshop.locks import (
    HeldLease,
    LockEvent,
    LockExpired,
    LockLost,
    LockTimeout,
    MultiLock,
    Node,
    NodeDown,
    SingleLock,
)
from tests.conftest import eventually
from tests.locks.conftest import Five, is_heard, make_lock

MANY = ("multi", "multi-nodes")


def spread(nodes: tuple[Node, ...], *names: str, ttl_ms: int = 2_000) -> MultiLock:
    """A lock on names such as ``b2``: the digit is its node."""
    return MultiLock(SingleLock(nodes[int(name[-1])], name, ttl_ms=ttl_ms) for name in names)


async def test_keys_are_sorted_and_each_is_taken_once(five: Five) -> None:
    """The same key twice is one lock, and the order of naming does not matter."""
    lock = spread(five.process(), "c0", "a0", "c0", "b0")
    async with lock.hold(wait_ms=0) as lease:
        assert lease.key == "a0,b0,c0"
        assert await five.keys() == ["lock:{a0}", "lock:{b0}", "lock:{c0}"]

    await eventually(five.is_empty)


def test_a_lock_on_nothing_is_refused() -> None:
    """Without a lock there is nothing to hold."""
    with pytest.raises(ValueError, match="at least one"):
        MultiLock([])


async def test_one_script_takes_all_that_are_on_one_node(five: Five) -> None:
    """Ten locks of one node cost one command to take and one to release; spread, one each."""
    nodes = five.process()
    lock = MultiLock(SingleLock(nodes[0], f"k{n}", ttl_ms=2_000) for n in range(10))
    async with lock.hold(wait_ms=0):
        pass  # the server knows the scripts from here on
    before = await calls(five.outside[0])
    async with lock.hold(wait_ms=0) as lease:
        pass
    assert await calls(five.outside[0]) == before + 2

    for server in nodes[1:3]:
        await server.ready()
    async with spread(nodes, "a0", "b1", "c2").hold(wait_ms=0) as spread_lease:
        assert spread_lease.fence == 0  # numbers of several counters cannot be compared
    assert lease.fence > 0
    assert await calls(five.outside[0]) == before + 4


@pytest.mark.parametrize("place", ["0", "1"], ids=["one node", "two nodes"])
async def test_one_deadline_for_all(five: Five, place: str) -> None:
    """Two keys that are held by others cost the waiting time once, and none is held then."""
    loop, nodes = asyncio.get_running_loop(), five.process()
    others = spread(nodes, "a0", f"b{place}")
    held = [await lock.acquire(wait_ms=0) for lock in others.locks if isinstance(lock, SingleLock)]
    freeing = asyncio.create_task(free_later(held[0]))
    began_s = loop.time()
    with pytest.raises(LockTimeout):
        await spread(five.process(), "a0", f"b{place}").acquire(wait_ms=400)

    assert 0.39 < loop.time() - began_s < 0.7
    await freeing
    await eventually(lambda: is_only(five, f"lock:{{b{place}}}"))


@pytest.mark.parametrize("fault", ["held", "dead"])
async def test_none_is_held_after_a_failure(five: Five, fault: str) -> None:
    """Where the last of three cannot be had, the two before it are freed at once."""
    nodes = five.process()
    held: list[str] = []
    if fault == "held":
        await SingleLock(nodes[2], "c2", ttl_ms=60_000).acquire(wait_ms=0)
        held.append("lock:{c2}")
    else:
        five.servers[2].kill()

    with pytest.raises((LockTimeout, NodeDown)):
        await spread(five.process(), "a0", "b1", "c2", ttl_ms=60_000).acquire(wait_ms=0)

    await eventually(lambda: is_only(five, *held))


async def test_the_last_taken_is_released_first(five: Five) -> None:
    """Locks on several nodes are released in reverse order."""
    events: list[LockEvent] = []
    async with make_lock("multi-nodes", five.process(), on_event=events.append).hold(wait_ms=0):
        pass

    taken = [event.key for event in events if event.kind == "acquired"]
    freed = [event.key for event in events if event.kind == "released"]
    assert taken == ["door 0", "door 1", "door 2"]
    assert freed == taken[::-1]


async def test_a_lock_that_ended_while_the_next_was_waited_for_is_not_handed_out(
    five: Five,
) -> None:
    """The first of two ran out during the wait for the second: the whole is not granted."""
    nodes = five.process()
    second = await SingleLock(nodes[1], "b1", ttl_ms=60_000).acquire(wait_ms=0)
    waiting = asyncio.create_task(
        spread(five.process(), "a0", "b1", ttl_ms=150).acquire(wait_ms=5_000)
    )
    await eventually(lambda: is_only(five, "lock:{a0}", "lock:{b1}", *queue("b1")))
    await eventually(lambda: is_only(five, "lock:{b1}", *queue("b1")))
    other = await SingleLock(nodes[0], "a0", ttl_ms=60_000).acquire(wait_ms=0)

    await second.release()

    with pytest.raises(LockExpired):
        await waiting
    await eventually(lambda: is_only(five, "lock:{a0}"))
    assert other.remaining_ms() > 0


@pytest.mark.parametrize("kind", MANY)
async def test_one_lost_key_loses_the_whole(five: Five, kind: str) -> None:
    """Where one of its keys is another's, the lease is lost, and the other's key stands."""
    events: list[LockEvent] = []
    lease = await make_lock(kind, five.process(), on_event=events.append).acquire(wait_ms=0)
    node = five.outside[1 if kind == "multi-nodes" else 0]
    await node.command("SET", "lock:{door 1}", "another")

    with pytest.raises(LockLost):
        await lease.extend(5_000)
    with pytest.raises(LockLost):
        await lease.release()

    assert lease.lost.is_set()
    await eventually(lambda: is_only(five, "lock:{door 1}"))


@pytest.mark.parametrize("kind", MANY)
async def test_opposite_orders_cannot_deadlock(five: Five, kind: str) -> None:
    """Two buyers who name the same locks in opposite orders both get them, again and again."""
    names = ("a0", "b1") if kind == "multi-nodes" else ("a0", "b0")
    places = [five.process(), five.process()]
    await asyncio.gather(*(is_heard(node) for place in places for node in place))

    async def buy(place: tuple[Node, ...], *wanted: str) -> None:
        async with spread(place, *wanted, ttl_ms=60_000).hold(wait_ms=2_000):
            await asyncio.sleep(0)

    for _ in range(20):
        await asyncio.gather(buy(places[0], *names), buy(places[1], *reversed(names)))

    assert await five.is_left_empty_by(*places[0], *places[1])


@pytest.mark.parametrize("places", ["00", "01"], ids=["one node", "two nodes"])
async def test_control_in_the_order_of_naming_they_deadlock(five: Five, places: str) -> None:
    """Control: each takes the first it names, then wants the other's: neither gets both."""
    names = [f"a{places[0]}", f"b{places[1]}"]
    barrier = asyncio.Barrier(2)

    async def buy(*wanted: str) -> None:
        nodes = five.process()
        first, second = (SingleLock(nodes[int(it[-1])], it, ttl_ms=60_000) for it in wanted)
        async with first.hold(wait_ms=0):
            await barrier.wait()
            try:
                await second.acquire(wait_ms=300)
            finally:
                await barrier.wait()

    outcomes = await asyncio.gather(buy(*names), buy(*reversed(names)), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [LockTimeout, LockTimeout]


@pytest.mark.parametrize("kind", MANY)
async def test_cycles_of_bundles_never_stop(five: Five, kind: str) -> None:
    """Twenty buyers of two out of three products, in all orders, of two processes: all get them."""
    places = [five.process(), five.process()]
    names = ("a0", "b1", "c2") if kind == "multi-nodes" else ("a0", "b0", "c0")
    pairs = [(one, other) for one in names for other in names if one != other]
    served: list[int] = []

    async def buy(number: int) -> None:
        async with spread(places[number % 2], *pairs[number % 6]).hold(wait_ms=20_000):
            served.append(number)

    await asyncio.gather(*(buy(number) for number in range(24)))

    assert sorted(served) == list(range(24))
    await eventually(five.is_empty)


async def free_later(lease: HeldLease) -> None:
    """Free the first lock halfway through the wait of whoever wants both."""
    await lease.holding.clock.sleep_ms(200)  # a span of time is what this is about
    await lease.release()


async def calls(node: Node) -> int:
    """How many scripts the server has run."""
    info = await node.command("INFO", "commandstats")
    lines = [line for line in info.splitlines() if line.startswith("cmdstat_eval")]
    return sum(int(line.split("calls=")[1].split(",")[0]) for line in lines)


async def is_only(five: Five, *keys: str) -> bool:
    return await five.keys() == sorted(keys)


def queue(name: str) -> tuple[str, str]:
    return f"lock:{{{name}}}:queue", f"lock:{{{name}}}:waiters"
