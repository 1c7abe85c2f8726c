"""Faults between a client and a node: a proxy in front of it that a cell controls.

The problem: nobody's loopback is slow. The idea: a TCP proxy in this process hands every
chunk on after a delay, in order, in both directions. It needs no root and no other program.

It delays chunks, not bytes: it models the distance of a network, not its width.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from labshop.stack.ports import LOOPBACK

CHUNK_BYTES = 65_536


@asynccontextmanager
async def delayed(port: int, delay_ms: float) -> AsyncIterator[int]:
    """Put a node further away for the length of an ``async with`` body.

    Args:
        port: the node's, on this machine.
        delay_ms: added to a round trip, half of it in each direction.

    Returns:
        The port under which the distant node is reached.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node_reader, node_writer = await asyncio.open_connection(LOOPBACK, port)
        half_s = delay_ms / 2_000
        try:
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(_carry(reader, node_writer, half_s))
                both_ways.create_task(_carry(node_reader, writer, half_s))
        finally:
            writer.transport.abort()
            node_writer.transport.abort()

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float
) -> None:
    """Hand every chunk on `delay_s` after it came, while further ones arrive."""
    loop = asyncio.get_running_loop()
    with suppress(ConnectionError):
        while chunk := await reader.read(CHUNK_BYTES):
            loop.call_later(delay_s, writer.write, chunk)
    await asyncio.sleep(delay_s)
    writer.close()
