"""The single-node lock, on both kinds of server, with what is taken away in each control."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from labshop.clock import SystemClock
from labshop.locks import LockEvent, LockLost, LockTimeout, Node, NodeSilent, SingleLock
from labshop.locks.claim import NodeClaim
from labshop.locks.turns import Visitor
from labshop.stack.nodes import ServerNode
from tests.conftest import eventually

KEY = "lock:{door}"


def lock_on(
    node: Node, *, ttl_ms: int = 2_000, events: list[LockEvent] | None = None
) -> SingleLock:
    return SingleLock(node, "door", ttl_ms=ttl_ms, on_event=(events or []).append)


@pytest.fixture
async def elsewhere(either_server: ServerNode, node: Node) -> AsyncIterator[Node]:
    """The same server as another process sees it: a connection and queues of its own."""
    other = Node(f"redis://{node.name}", timeout_ms=2_000)
    yield other
    await other.close()


async def test_it_is_held_and_then_free(node: Node) -> None:
    """Within the body the key holds the token, with a time to live; afterwards it is gone."""
    async with lock_on(node).hold(wait_ms=0) as lease:
        assert await node.command("GET", KEY) == lease.token
        assert 0 < await node.command("PTTL", KEY) <= 2_000
        assert 0 < lease.remaining_ms() <= 2_000

    assert await node.command("EXISTS", KEY) == 0


async def test_it_is_released_when_the_body_raises(node: Node) -> None:
    """An error in the body passes through, and the lock is free."""
    with pytest.raises(ZeroDivisionError):
        async with lock_on(node).hold(wait_ms=0):
            raise ZeroDivisionError

    assert await node.command("EXISTS", KEY) == 0


async def test_a_timeout_of_the_body_is_the_bodys_own(node: Node) -> None:
    """A TimeoutError in the body is not mistaken for a lock that was not free."""
    with pytest.raises(TimeoutError):
        async with lock_on(node).hold(wait_ms=0):
            raise TimeoutError

    assert await node.command("EXISTS", KEY) == 0


async def test_another_process_is_kept_out(node: Node, elsewhere: Node) -> None:
    """Who does not get the lock in time is told so, with the time that it was to wait."""
    async with lock_on(node).hold(wait_ms=0):
        with pytest.raises(LockTimeout) as refusal:
            async with lock_on(elsewhere).hold(wait_ms=50):
                pytest.fail("two holders")

    assert (refusal.value.key, refusal.value.wait_ms) == ("door", 50)


async def test_another_process_gets_it_after_the_release(node: Node, elsewhere: Node) -> None:
    """A waiter of another process gets the lock once it is free."""
    waiting = asyncio.Event()

    async def wait_for_it() -> int:
        waiting.set()
        async with lock_on(elsewhere).hold(wait_ms=5_000) as lease:
            return lease.fence

    async with lock_on(node).hold(wait_ms=0) as first:
        task = asyncio.create_task(wait_for_it())
        await waiting.wait()

    assert await task > first.fence


async def test_release_leaves_anothers_lock_alone(node: Node, elsewhere: Node) -> None:
    """A holder whose lease ran out does not free the lock of the next one."""
    events: list[LockEvent] = []
    late = SingleLock(node, "door", ttl_ms=30, on_event=events.append)
    async with late.hold(wait_ms=0):
        await eventually(lambda: is_gone(node))
        holding = lock_on(elsewhere).hold(wait_ms=0)
        lease = await holding.__aenter__()

    assert await node.command("GET", KEY) == lease.token
    assert events[-1].kind == "lost"
    await holding.__aexit__(None, None, None)


async def test_control_a_plain_del_frees_anothers_lock(node: Node, elsewhere: Node) -> None:
    """Control: the same pause, and a release by DEL: the next one's lock is gone."""
    await node.command("SET", KEY, "paused", "NX", "PX", 30)
    await eventually(lambda: is_gone(node))
    async with lock_on(elsewhere).hold(wait_ms=0):
        await node.command("DEL", KEY)

        assert await node.command("EXISTS", KEY) == 0


async def test_tasks_of_one_process_are_served_in_order(node: Node) -> None:
    """Fifty tasks that ask one after the other hold the lock in exactly that order."""
    order: list[int] = []

    async def visit(number: int) -> None:
        async with lock_on(node).hold(wait_ms=10_000):
            order.append(number)

    await asyncio.gather(*(visit(number) for number in range(50)))

    assert order == list(range(50))
    assert len(node.turns) == 0


async def test_never_two_holders_across_processes(node: Node, elsewhere: Node) -> None:
    """Tasks of two processes that read, wait and write back under the lock lose no count."""
    assert await count_together(node, elsewhere, protected=True) == 40


async def test_control_without_the_lock_counts_are_lost(node: Node, elsewhere: Node) -> None:
    """Control: the same tasks without the lock overwrite each other."""
    assert await count_together(node, elsewhere, protected=False) < 40


async def count_together(node: Node, elsewhere: Node, *, protected: bool) -> int:
    async def count(connection: Node) -> None:
        async with lock_on(connection).hold(wait_ms=20_000) if protected else nothing():
            seen = int(await connection.command("GET", "count") or 0)
            await asyncio.sleep(0)  # lets the others read before this one writes
            await connection.command("SET", "count", seen + 1)

    await asyncio.gather(*(count(c) for _ in range(20) for c in (node, elsewhere)))
    return int(await node.command("GET", "count"))


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


async def test_fences_grow_also_after_the_server_forgot_everything(node: Node) -> None:
    """Each lease has a larger fence than the last, even if the memory was wiped in between."""
    fences = []
    for _ in range(5):
        async with lock_on(node).hold(wait_ms=0) as lease:
            fences.append(lease.fence)
        await node.command("FLUSHALL")

    assert fences == sorted(set(fences))


async def test_extend_prolongs_only_what_is_ours(node: Node) -> None:
    """Extending gives a new lease with a later end; after the end it raises LockLost."""
    async with lock_on(node, ttl_ms=300).hold(wait_ms=0) as lease:
        longer = await lease.extend(5_000)
        assert await node.command("PTTL", KEY) > 1_000
        assert longer.deadline_ms - 1_000 > lease.deadline_ms
        assert longer.remaining_ms() == pytest.approx(lease.remaining_ms(), abs=50)
        assert longer.token == lease.token

        await node.command("SET", KEY, "another", "PX", 1_000)
        with pytest.raises(LockLost):
            await lease.extend(5_000)

    assert await node.command("GET", KEY) == "another"


async def test_extend_never_shortens(node: Node) -> None:
    """A shorter time leaves key and lease as they are: a lost reply must not part them."""
    async with lock_on(node, ttl_ms=5_000).hold(wait_ms=0) as lease:
        assert (await lease.extend(10)).deadline_ms == lease.deadline_ms
        assert await node.command("PTTL", KEY) > 1_000


async def test_a_listener_that_fails_leaves_no_lock(node: Node) -> None:
    """An error in the hook reaches the caller, and the lock is free."""

    def fail(_event: LockEvent) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with SingleLock(node, "door", ttl_ms=60_000, on_event=fail).hold(wait_ms=0):
            pytest.fail("the hook did not fail")

    assert await node.command("EXISTS", KEY) == 0


async def test_an_acquisition_cut_off_by_a_reset_is_undone(node: Node, elsewhere: Node) -> None:
    """The connection breaks after SET was carried out: the next connection undoes it first."""
    async with lock_on(node).hold(wait_ms=0):
        pass  # the server knows the script from here on
    wire = node._wire
    assert wire is not None
    wire.data_received = lambda data: wire.abort()  # type: ignore[method-assign]  # cut off

    with pytest.raises(NodeSilent):
        async with lock_on(node, ttl_ms=60_000).hold(wait_ms=0):
            pytest.fail("held without a reply")
    assert await elsewhere.command("EXISTS", KEY) == 1  # the unsafe moment is real

    async with lock_on(node).hold(wait_ms=0) as lease:
        assert await node.command("GET", KEY) == lease.token


async def test_a_lost_reply_does_not_block_its_caller(node: Node) -> None:
    """Asking again with the same token finds the lock to be its own."""

    def claim() -> NodeClaim:
        return NodeClaim(node, ("door",), "token", ttl_ms=2_000, clock=SystemClock())

    first = await claim().take(0, lambda: None)
    node.turns.leave(Visitor("door", None))  # the first claim has forgotten that it was granted
    again = await claim().take(0, lambda: None)

    assert again > first


@pytest.mark.parametrize("turns", range(6))
async def test_cancelled_on_its_way_it_leaves_nothing_behind(node: Node, turns: int) -> None:
    """However far an acquisition came when it was cancelled, the lock is free, the queue empty."""

    async def hold_it() -> None:
        async with lock_on(node).hold(wait_ms=1_000):
            await asyncio.sleep(0)

    for _ in range(30):
        task = asyncio.create_task(hold_it())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        assert await node.command("EXISTS", KEY) == 0
    assert len(node.turns) == 0


@pytest.mark.parametrize("flushed", [False, True])
async def test_cancelled_while_it_releases_it_is_free(node: Node, *, flushed: bool) -> None:
    """A release that is cancelled on its way frees the lock, also when its script was unknown."""
    for _ in range(30):
        leaving = asyncio.Event()

        async def hold_it() -> None:
            async with lock_on(node).hold(wait_ms=1_000):
                if flushed:
                    await node.command("SCRIPT", "FLUSH")
                leaving.set()  # noqa: B023  # each round has its own

        task = asyncio.create_task(hold_it())
        await leaving.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        await eventually(lambda: is_gone(node))  # a lost script costs a round trip
    assert len(node.turns) == 0


async def test_control_a_cancelled_set_without_its_undoing_is_an_orphan(node: Node) -> None:
    """Control: SET was on its way when the task was cancelled, nobody undid it: locked."""
    task = asyncio.create_task(node.command("SET", KEY, "token", "NX", "PX", 60_000))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert await node.command("EXISTS", KEY) == 1


async def test_a_frozen_node_costs_a_deadline_and_leaves_no_orphan(
    either_server: ServerNode, node: Node
) -> None:
    """A node that hangs while it is asked answers nobody; awake again, it holds no lock."""
    hasty = Node(either_server.url, timeout_ms=100)
    await hasty.command("PING")
    either_server.freeze()
    try:
        with pytest.raises(NodeSilent):
            async with lock_on(hasty, ttl_ms=60_000).hold(wait_ms=0):
                pytest.fail("a frozen node granted a lock")
    finally:
        either_server.thaw()

    # Ordered behind the acquisition and its undoing, on the same connection.
    await eventually(lambda: answers(hasty))
    assert await hasty.command("EXISTS", KEY) == 0
    await hasty.close()


async def test_every_change_is_told(node: Node, elsewhere: Node) -> None:
    """Acquired, extended, released and timed out are events, with token and fence."""
    events: list[LockEvent] = []
    lock = SingleLock(node, "door", ttl_ms=1_000, on_event=events.append)
    other = SingleLock(elsewhere, "door", ttl_ms=1_000, on_event=events.append)
    async with lock.hold(wait_ms=0) as lease:
        await lease.extend(1_000)
        with pytest.raises(LockTimeout):
            async with other.hold(wait_ms=0):
                pytest.fail("two holders")

    told = [event.kind for event in events]
    assert told == ["acquired", "extended", "timed_out", "released"]
    assert {event.token for event in events if event.kind != "timed_out"} == {lease.token}
    assert events[-1].fence == lease.fence > 0


async def test_the_scripts_survive_a_script_flush(node: Node) -> None:
    """A server that lost its scripts is given them again."""
    for _ in range(2):
        async with lock_on(node).hold(wait_ms=0) as lease:
            assert await node.command("GET", KEY) == lease.token
        await node.command("SCRIPT", "FLUSH")


async def is_gone(node: Node) -> bool:
    return bool(await node.command("EXISTS", KEY) == 0)


async def answers(node: Node) -> bool:
    try:
        return bool(await node.command("PING") == "PONG")
    except NodeSilent:
        return False
