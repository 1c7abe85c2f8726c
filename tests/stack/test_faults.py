"""The faults act, and are healed."""

import time

from labshop.locks import Node
from labshop.stack.faults import delayed
from labshop.stack.nodes import ServerNode


async def test_a_delay_is_seen_on_the_wire_and_gone_afterwards(valkey: ServerNode) -> None:
    """A round trip through the proxy takes the delay that was asked for; directly it does not."""
    async with delayed(valkey.port, 50) as port:
        far = Node(f"redis://127.0.0.1:{port}", timeout_ms=2_000)
        await far.command("PING")
        trips_ms = [await round_trip_ms(far) for _ in range(5)]
        await far.close()
    near = Node(valkey.url, timeout_ms=2_000)
    await near.command("PING")

    assert all(trip_ms >= 49 for trip_ms in trips_ms)
    assert min([await round_trip_ms(near) for _ in range(5)]) < 49
    await near.close()


async def test_what_is_delayed_keeps_its_order(valkey: ServerNode) -> None:
    """Commands that follow each other through the proxy arrive in that order."""
    async with delayed(valkey.port, 10) as port:
        far = Node(f"redis://127.0.0.1:{port}", timeout_ms=2_000)
        await far.command("DEL", "order")
        for number in range(20):
            await far.command("RPUSH", "order", number)
        listed = await far.command("LRANGE", "order", 0, -1)
        await far.close()

    assert listed == [str(number) for number in range(20)]


async def round_trip_ms(node: Node) -> float:
    began = time.perf_counter()
    await node.command("PING")
    return (time.perf_counter() - began) * 1_000
