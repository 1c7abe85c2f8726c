"""A node that has just started may have forgotten a vote: it has none for a while."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labshop.locks import LockTimeout, Node, NoQuorum
from labshop.stack.faults import NodeClock, shimmed
from labshop.stack.faults.errors import FaultUnavailable
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from labshop.stack.probe import ask_redis, redis_info
from tests.conftest import eventually, need_in_ci
from tests.locks.conftest import NAMES, Five, is_heard, redlock

QUARANTINE_MS = 900
GROWN_UP_S = 2
"""More than a quarantine, and than what a node's own whole seconds can be off."""


@pytest.fixture
async def grown_up(five: Five) -> Five:
    """Five servers that have all run for longer than the quarantine."""
    await eventually(lambda: are_grown_up(five))
    return five


@pytest.fixture
def own_server(leash: Leash, tmp_path: Path) -> Iterator[ServerNode]:
    """A server of this test's own, whose clock can be moved."""
    try:
        environment = shimmed(tmp_path / "own")
    except FaultUnavailable as sentence:
        need_in_ci(str(sentence))
        raise
    server = ServerNode(
        NodeSpec("own", "lock"), find_server(None), tmp_path / "own", leash, env=environment
    )
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize("quarantine_ms", [QUARANTINE_MS, 0], ids=["quarantine", "control"])
async def test_a_vote_that_was_forgotten_does_not_make_a_second_holder(
    grown_up: Five, quarantine_ms: int
) -> None:
    """Of the three nodes that granted a lock one restarts empty; with the two that never voted it
    would be a second majority. Control: without a quarantine it is one.
    """
    five, network = grown_up, grown_up.network
    here, there = five.process(client="here"), five.process()
    with network.refused(client="here", server=NAMES[3:]):
        lease = await redlock(here, ttl_ms=60_000).acquire(wait_ms=0)
    assert await five.tokens() == [lease.token] * 3 + [""] * 2

    forget(five.servers[2])
    try:
        second = await redlock(there, ttl_ms=1_000, quarantine_ms=quarantine_ms).acquire(wait_ms=0)
    except LockTimeout:
        second = None

    assert (second is None) is (quarantine_ms > 0)


async def test_it_votes_again_after_the_quarantine(grown_up: Five) -> None:
    """Where its vote is needed, a restarted node is named with what is left, and then grants."""
    five, nodes = grown_up, grown_up.process()
    await asyncio.gather(*map(is_heard, nodes))
    for server in five.servers[3:]:
        server.kill()
    restarted_s = time.monotonic()
    five.servers[2].restart()
    await is_heard(nodes[2])  # whoever does not know yet that it has gone is not answered at all
    lock = redlock(nodes, quarantine_ms=QUARANTINE_MS)

    with pytest.raises(NoQuorum) as refusal:
        await lock.acquire(wait_ms=0)
    assert "just started" in refusal.value.nodes[nodes[2].name]
    assert len(refusal.value.nodes) == 3
    assert await five.outside[2].command("EXISTS", "lock:{door}") == 0
    lease = await lock.acquire(wait_ms=20_000)

    assert time.monotonic() - restarted_s >= QUARANTINE_MS / 1_000
    await lease.release()


async def test_five_nodes_that_have_all_just_started_grant_nothing_at_first(five: Five) -> None:
    """After a restart of all, the first lock waits until the longest lease of before is over."""
    with pytest.raises(NoQuorum) as refusal:
        await redlock(five.process(), quarantine_ms=3_600_000).acquire(wait_ms=0)

    assert len(refusal.value.nodes) >= 3
    assert all("just started" in reason for reason in refusal.value.nodes.values())


async def test_a_restart_is_seen_by_its_run_id(own_server: ServerNode) -> None:
    """A node that was known to be old is young again when it has another run."""
    node = Node(own_server.url, timeout_ms=5_000)
    await eventually(lambda: is_up_for(own_server, 3))
    await is_heard(node)
    first = node._run
    assert first is not None
    assert node.young_for_ms(1_000) <= 0

    own_server.kill()
    own_server.restart()
    await is_heard(node)

    assert node._run is not None
    assert node._run.run_id != first.run_id
    assert 9_000 < node.young_for_ms(10_000) <= 10_000
    await node.close()


async def test_a_broken_connection_does_not_make_a_node_young(own_server: ServerNode) -> None:
    """The same run over a new connection began when it began."""
    node = Node(own_server.url, timeout_ms=5_000)
    await is_heard(node)
    assert node._run is not None
    began_s = node._run.began_s
    await node.close()
    await is_heard(node)

    assert node.connections == 2
    assert node._run.began_s == began_s
    await node.close()


async def test_a_clock_that_jumps_does_not_end_a_quarantine(own_server: ServerNode) -> None:
    """A node restarts, and its clock jumps an hour ahead, so it says that it is an hour old: who
    heard its earlier run knows better. Control: a newcomer has to believe it.
    """
    node, newcomer = (Node(own_server.url, timeout_ms=5_000) for _ in range(2))
    await is_heard(node)
    heard_s = asyncio.get_running_loop().time()
    own_server.kill()
    own_server.restart()
    NodeClock(own_server).offset_ms = 3_600_000
    await eventually(lambda: is_up_for(own_server, 3_000))

    await is_heard(node)
    await is_heard(newcomer)

    assert node._run is not None
    assert node._run.began_s >= heard_s - 0.1
    assert node.young_for_ms(60_000) > 40_000
    assert newcomer.young_for_ms(60_000) < 0
    for each in (node, newcomer):
        await each.close()


async def test_whole_seconds_do_not_make_a_node_older_than_it_is(own_server: ServerNode) -> None:
    """A node counts its age in whole seconds of the clock, so it can say 1 after a tenth of one:
    it is never taken for older than it is.
    """
    loop = asyncio.get_running_loop()
    for _ in range(10):
        own_server.kill()
        await eventually(late_in_a_second)
        before_s = loop.time()
        own_server.restart()
        await eventually(lambda: is_up_for(own_server, 1))
        node = Node(own_server.url, timeout_ms=5_000)
        await is_heard(node)
        is_telling = loop.time() - before_s < 1
        assert node._run is not None
        assert node._run.began_s >= before_s
        await node.close()
        if is_telling:
            break
    else:
        pytest.fail("this machine is too slow to see a node that is younger than it says")


def forget(server: ServerNode) -> None:
    """Let a server restart with nothing in its memory."""
    server.kill()
    server.restart()
    ask_redis(server.port, "FLUSHALL")


async def are_grown_up(five: Five) -> bool:
    return all([await is_up_for(server, GROWN_UP_S) for server in five.servers])


async def is_up_for(server: ServerNode, age_s: int) -> bool:
    return int(redis_info(server.port, "server", 5.0)["uptime_in_seconds"]) >= age_s


async def late_in_a_second() -> bool:
    return time.time() % 1 > 0.6
