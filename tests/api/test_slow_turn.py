"""A slow turn of our own loop is not an outage of the node that has answered meanwhile."""

import asyncio
import time

import pytest
import uvloop

from labshop.locks import Node, NodeSilent
from labshop.locks.wire import Wire
from labshop.stack.nodes import ServerNode

TIMEOUT_MS = 200


async def ask_and_be_slow(url: str) -> None:
    """Ask a node, and hold the loop for longer than the answer may take."""
    node = Node(url, timeout_ms=TIMEOUT_MS)
    try:
        await node.command("PING")
        asked = asyncio.ensure_future(node.command("PING"))
        await asyncio.sleep(0)
        time.sleep(2 * TIMEOUT_MS / 1_000)  # noqa: ASYNC251  # the slow turn itself
        assert await asked == "PONG"
    finally:
        await node.close()


def test_an_answer_that_waits_to_be_read_is_not_missed(valkey: ServerNode) -> None:
    """The node has answered long ago, and the loop that the server runs on looks at timers first."""
    uvloop.run(ask_and_be_slow(valkey.url))


def test_control_who_does_not_read_first_blames_the_node(
    valkey: ServerNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When whatever is due is overdue at once, the same answer is given up."""
    monkeypatch.setattr(Wire, "_read_first", Wire._expire)
    with pytest.raises(NodeSilent):
        uvloop.run(ask_and_be_slow(valkey.url))
