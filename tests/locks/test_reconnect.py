"""What was under way when a connection ended: carried out before its undoing, or never."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from labshop.locks import (
    LockLost,
    LockTimeout,
    Node,
    NodeDown,
    NodeRefused,
    NodeSilent,
    SingleLock,
)
from labshop.locks.address import address_book
from labshop.locks.connection import Undo
from labshop.locks.wire import Part, Reply, Wire
from labshop.lua import load_script
from tests.conftest import eventually
from tests.locks.conftest import Five, is_heard, redlock

TTL_MS = 60_000


@pytest.mark.parametrize("protected", [True, False], ids=["killed", "control"])
async def test_what_is_still_on_its_way_over_the_old_connection_never_arrives(
    five: Five, monkeypatch: pytest.MonkeyPatch, *, protected: bool
) -> None:
    """A SET is held up in the network; the next connection takes another way and undoes it: then
    the SET must not be read any more.

    Control: where the next connection does not end the old one, the SET arrives after its undoing.
    """
    if not protected:
        monkeypatch.setattr(Wire, "send", without_kill(Wire.send))
    (node, *_) = five.process(client="here")
    await is_heard(node)
    with five.network.partitioned("here"):
        wire = node._wire
        assert wire is not None
        acquiring = asyncio.create_task(SingleLock(node, "door", ttl_ms=TTL_MS).acquire(wait_ms=0))
        await eventually(lambda: is_sent(wire))
        wire.abort()
        with pytest.raises(NodeSilent):
            await acquiring
        node._book = address_book(five.servers[0].url, timeout_ms=2_000)  # round the partition
        await is_heard(node)
        assert await five.is_empty()
    await eventually(lambda: has_one_client(five, node))

    assert await five.is_left_empty_by(node) is protected


def without_kill(send: Any) -> Any:
    """A connection's `send` that ends nothing."""

    def send_it(wire: Wire, parts: Sequence[Part], **options: Any) -> "asyncio.Future[Reply]":
        harmless = ("PING",) if parts[:2] == ("CLIENT", "KILL") else parts
        reply: asyncio.Future[Reply] = send(wire, harmless, **options)
        return reply

    return send_it


async def has_one_client(five: Five, node: Node) -> bool:
    """Whether the server has no connection left that came through the network."""
    through = five.network.traffic("n1", "here")
    listing = await five.outside[0].command("CLIENT", "LIST")
    mine = [line for line in listing.splitlines() if " sub=1 " in line]
    # The onlooker's connection subscribes too; the old one has ended.
    return through.connections >= 1 and len(mine) == 2


async def test_a_frozen_server_that_was_left_holds_nothing_when_it_wakes(five: Five) -> None:
    """SETs lie unread in the sockets of a frozen server, its client has given them up and dials
    anew in vain; when it wakes, whatever it reads first, nothing is held in the end.
    """
    (node, *_) = five.process(timeout_ms=20)
    await is_heard(node)
    five.servers[0].freeze()
    for number in range(20):  # the connection is given up on the way
        with pytest.raises((NodeSilent, NodeDown)):
            await SingleLock(node, f"door {number}", ttl_ms=TTL_MS).acquire(wait_ms=0)
    assert not node.is_connected
    five.servers[0].thaw()

    assert await five.is_left_empty_by(node)
    assert node.connections == 2
    assert not node._owed


@pytest.mark.parametrize("protected", [True, False], ids=["owed", "control"])
async def test_what_is_owed_comes_first_on_the_next_connection(
    five: Five, *, protected: bool
) -> None:
    """An acquisition that the server carried out and could not answer is undone ahead of the next
    one, which therefore gets the lock. Control: with nothing owed, it is refused.
    """
    (node, *_) = five.process(client="here")
    lock = SingleLock(node, "door", ttl_ms=TTL_MS)
    await (await lock.acquire(wait_ms=0)).release()
    with five.network.replies_dropped(client="here"):
        acquiring = asyncio.create_task(lock.acquire(wait_ms=0))
        await eventually(lambda: is_there(five))
        five.network.reset(client="here")
        with pytest.raises(NodeSilent):
            await acquiring
    assert len(node._owed) == 1
    assert await is_there(five)
    if not protected:
        node._owed.clear()

    if protected:
        await (await lock.acquire(wait_ms=0)).release()
    else:
        with pytest.raises(LockTimeout):
            await lock.acquire(wait_ms=0)


async def test_a_waiter_whose_connection_breaks_waits_on_over_the_next(five: Five) -> None:
    """A waiter in the queue in Redis loses its connection: it keeps its place, and is served."""
    (node, *_) = five.process(client="here")
    lease = await SingleLock(five.process()[0], "door", ttl_ms=TTL_MS).acquire(wait_ms=0)
    waiting = asyncio.create_task(SingleLock(node, "door", ttl_ms=TTL_MS).acquire(wait_ms=20_000))
    await eventually(lambda: is_queued(five, 1))
    five.network.reset(client="here")
    await eventually(lambda: has_connected(node, 2))
    await eventually(lambda: is_queued(five, 1))

    await lease.release()

    async with asyncio.timeout(1):
        await (await waiting).release()


async def test_an_undoing_that_met_a_busy_server_is_sent_again(five: Five) -> None:
    """A release that a server was too busy for (BUSY, in another one's endless script) is sent
    again, and delivered once the server has time.
    """
    (node, *_), outside = five.process(timeout_ms=300), five.outside[0]
    lease = await SingleLock(node, "door", ttl_ms=TTL_MS).acquire(wait_ms=0)
    async with busy(five):
        with pytest.raises(LockLost):
            await lease.release()
        assert not node._owed  # it was answered
    assert await outside.command("EXISTS", "lock:{door}") == 1

    await eventually(five.is_empty)


async def test_a_late_undoing_of_one_vote_leaves_the_next_alone(
    five: Five, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server was too busy to take a vote back; when it is told again, the same client has voted
    anew, with success: that vote stands.
    """
    nodes = five.process(timeout_ms=500)
    await asyncio.gather(*map(is_heard, nodes))
    sent_again: list[str] = []
    send_again = nodes[0]._send_again

    def note(undo: Undo) -> None:
        sent_again.append(str(undo.args[0]))
        send_again(undo)

    monkeypatch.setattr(nodes[0]._wire, "_on_busy", note)
    for onlooker in five.outside[2:]:
        await onlooker.command("SET", "lock:{door}", "another", "PX", TTL_MS)
    async with busy(five):
        acquiring = asyncio.create_task(redlock(nodes, ttl_ms=TTL_MS).acquire(wait_ms=20_000))
        await eventually(lambda: is_true(len(sent_again) > 0))
        before = len(sent_again)
    for onlooker in five.outside[2:]:
        await onlooker.command("DEL", "lock:{door}")
    lease = await acquiring
    tried = int((await five.outside[0].command("GET", "lock:{door}")).partition(".")[2])
    undone = {f"{lease.token}.{number}" for number in range(1, tried)}
    await eventually(lambda: is_true(bool(undone & set(sent_again[before:]))))
    await is_heard(nodes[0])

    assert await five.tokens() == [lease.token] * 5
    await lease.release()


async def test_a_bounded_number_is_owed(five: Five) -> None:
    """While a node is away, the oldest of what is owed is given up, and the newest is kept."""
    small = Node(five.servers[0].url, timeout_ms=2_000, backlog=3)
    release = load_script("labshop.locks", "release_lock")
    keys = [f"lock:{{{number}}}" for number in range(5)]
    for key in keys:
        await five.outside[0].command("SET", key, "token")
        small.post(release, [key], ["token"])

    await is_heard(small)

    assert await five.keys() == keys[:2]
    await small.close()


async def is_there(five: Five) -> bool:
    return await five.keys() == ["lock:{door}"]


async def is_queued(five: Five, length: int) -> bool:
    return bool(await five.outside[0].command("LLEN", "lock:{door}:queue") == length)


async def has_connected(node: Node, times: int) -> bool:
    return node.connections == times


async def is_sent(wire: Wire) -> bool:
    return bool(wire.waiting) and not wire._outgoing


async def is_true(value: bool) -> bool:  # what is waited for
    return value


@asynccontextmanager
async def busy(five: Five) -> AsyncIterator[None]:
    """Let the first server be busy with a script that does not end."""
    outside, runner = five.outside[0], Node(five.servers[0].url, timeout_ms=60_000)
    await outside.command("CONFIG", "SET", "busy-reply-threshold", 1)
    running = asyncio.create_task(runner.command("EVAL", "while true do end", 0))
    await eventually(lambda: is_busy(outside))
    try:
        yield
    finally:
        await outside.command("SCRIPT", "KILL")
        await asyncio.gather(running, return_exceptions=True)
        await outside.command("CONFIG", "SET", "busy-reply-threshold", 5_000)
        await runner.close()


async def is_busy(node: Node) -> bool:
    try:
        await node.command("GET", "any")
    except NodeRefused as refusal:
        return refusal.reason.startswith("BUSY")
    return False
