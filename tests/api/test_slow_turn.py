"""A slow turn of our own loop is not an outage of the node that has answered meanwhile."""

import asyncio
import socket
import time

import pytest
import uvloop

from labshop.locks import Node, NodeSilent
from labshop.locks.wire import Wire
from labshop.stack.nodes import ServerNode

TIMEOUT_MS = 500


async def ask_and_be_slow(server: ServerNode) -> None:
    """Ask a node that answers while the loop is busy, for longer than it may take, with a socket.

    Before the loop reads another socket it looks at its timers.
    """
    node, loop = Node(server.url, timeout_ms=TIMEOUT_MS), asyncio.get_running_loop()
    ours, theirs = socket.socketpair()

    def be_slow() -> None:
        loop.remove_reader(ours)
        server.thaw()
        time.sleep(2 * TIMEOUT_MS / 1_000)

    try:
        await node.command("PING")
        server.freeze()
        loop.add_reader(ours, be_slow)
        theirs.send(b"x")
        assert await node.command("PING") == "PONG"
    finally:
        server.thaw()
        ours.close()
        theirs.close()
        await node.close()


def test_an_answer_that_waits_to_be_read_is_not_missed(valkey: ServerNode) -> None:
    """The node has answered long ago, on the loop that the server runs on."""
    uvloop.run(ask_and_be_slow(valkey))


def test_control_who_does_not_read_first_blames_the_node(
    valkey: ServerNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When whatever is due is overdue at once, the same answer is given up."""
    monkeypatch.setattr(Wire, "_read_first", Wire._expire)
    with pytest.raises(NodeSilent):
        uvloop.run(ask_and_be_slow(valkey))
