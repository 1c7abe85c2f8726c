"""What the tests of a network need: clients that come through it, and servers to be killed."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from labshop.locks import Node, NodeError
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server

PATIENCE_MS = 2_000


@asynccontextmanager
async def dial(port: int, timeout_ms: int = PATIENCE_MS) -> AsyncIterator[Node]:
    node = Node(f"redis://127.0.0.1:{port}", timeout_ms=timeout_ms)
    try:
        yield node
    finally:
        await node.close()


@contextmanager
def running(leash: Leash, folder: Path) -> Iterator[ServerNode]:
    server = ServerNode(NodeSpec(folder.name, "lock"), find_server(None), folder, leash)
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def round_trip_ms(node: Node) -> float:
    began_s = time.perf_counter()
    await node.command("PING")
    return (time.perf_counter() - began_s) * 1_000


async def answers(node: Node) -> bool:
    try:
        return bool(await node.command("PING") == "PONG")
    except NodeError:
        return False


async def saw(happened: bool) -> bool:
    return happened
