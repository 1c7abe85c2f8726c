"""What shards gain: one key, against several shards on one server and on a server each.

The problem: one Redis is one thread, so a hot product is served by one core at most; and on a
machine of two cores, a client that is fast enough to show it takes one of them. The idea:
reservations are packed beforehand and sent in batches over several connections, so that the client
costs little. Three things are told, each beside one key in the same round:

- reservations a second, as they were: two servers and the client share the cores there are;
- CPU time of the servers for a reservation, by their own `INFO cpu`: what a shard costs;
- reservations for a second of the *busiest* server's CPU: what a machine would get that has a core
  for each server. Several shards on one server gain nothing by it, for they share a thread.

The last lines are the worst case, in which all buyers have one home and half of the units are
borrowed. It says nothing about a network, nor about the ledger behind the gate.
"""

import asyncio
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import hiredis

from labshop.clock import SystemClock
from labshop.load.figure import Figure, Measure, Tally
from labshop.load.trial import empty
from labshop.locks import Node
from labshop.locks.wire import pack
from labshop.lua import load_script
from labshop.settings import read_settings
from labshop.shop.domain import Line, Order, Sale
from labshop.stack.nodes import NodeSpec, ServerNode
from labshop.stack.ports import LOOPBACK
from labshop.stack.probe import redis_info
from labshop.stack.topology import Topology
from labshop.storage.gate import Gate
from labshop.storage.inventory import RedisInventory
from labshop.storage.records import Snapshot
from labshop.storage.shard_gates import home_of
from labshop.storage.shards import ShardedInventory

ROUNDS = 5
SHARDS = 2
ORDERS = 8_000
CONNECTIONS, BATCH = 4, 50
BORROWERS = 1_000
TIMEOUT_MS = 10_000
PRODUCT = 1
ONE_KEY = "one key"

SPEED = Measure("reservations/s / one key", "Reservations a second (the cores are shared)")
COST = Measure("server CPU / one key", "CPU time of all servers for a reservation (less is better)")
CEILING = Measure(
    "per CPU second / one key",
    "Reservations for a CPU second of the busiest server: the speed with a core for each",
)
ABSOLUTE = Measure("server CPU (us)", "CPU time for a reservation, and how busy the server was")
BORROWED = Measure("all at one home", "The worst case: all buyers at one home, by the inventory")


@dataclass(frozen=True)
class _Flood:
    """What a flood of reservations took; CPU seconds of each server."""

    orders: int
    wall_s: float
    cpu_s: list[float]

    @property
    def per_s(self) -> float:
        return self.orders / self.wall_s

    @property
    def cost_us(self) -> float:
        return sum(self.cpu_s) / self.orders * 1_000_000

    @property
    def ceiling_per_s(self) -> float:
        return self.orders / max(self.cpu_s)


def shard_figures() -> list[Figure]:
    """Measure shards on servers of their own."""
    specs = tuple(NodeSpec(f"shard-{number + 1}", "primary") for number in range(SHARDS))
    tally = Tally((SPEED, COST, CEILING, ABSOLUTE, BORROWED))
    with (
        tempfile.TemporaryDirectory(prefix="labshop-bench-") as home,
        Topology(Path(home), read_settings().redis_server, specs) as topology,
    ):
        servers = list(topology.nodes.values())
        for _ in range(ROUNDS):
            _one_round(servers, tally)
            asyncio.run(_all_at_one_home(servers, tally))
    return tally.figures()


def _one_round(servers: Sequence[ServerNode], tally: Tally) -> None:
    first = servers[0]
    one_key = _flood(servers, [first.url])
    # A database each, so that they do not share their keys.
    same = _flood(servers, [f"{first.url}/{number}" for number in range(SHARDS)])
    apart = _flood(servers, [server.url for server in servers])
    for name, flood in ((f"{SHARDS} shards, 1 server", same), (f"{SHARDS} servers", apart)):
        tally.add(SPEED, name, flood.per_s / one_key.per_s)
        tally.add(COST, name, flood.cost_us / one_key.cost_us)
        tally.add(CEILING, name, flood.ceiling_per_s / one_key.ceiling_per_s)
    tally.add(ABSOLUTE, ONE_KEY, one_key.cost_us)
    tally.add(ABSOLUTE, "share of the time", max(one_key.cpu_s) / one_key.wall_s)


def _flood(servers: Sequence[ServerNode], urls: Sequence[str]) -> _Flood:
    """Reserve as fast as the servers can, each order at its buyer's home."""
    empty(servers)
    gates = asyncio.run(_built(urls))
    batches: list[list[bytes]] = [[] for _ in range(CONNECTIONS)]
    for number in range(CONNECTIONS):
        home = number % len(gates)
        for first in range(number * BATCH, ORDERS, CONNECTIONS * BATCH):
            users = (home + len(gates) * it for it in range(first, first + BATCH))
            batches[number].append(b"".join(_packed(gates[home], user) for user in users))
    return _measured(servers, ORDERS, lambda: _send_all(urls, batches))


def _measured(servers: Sequence[ServerNode], orders: int, reserve: Callable[[], object]) -> _Flood:
    before = [_cpu_s(server) for server in servers]
    began_s = time.monotonic()
    reserve()
    wall_s = time.monotonic() - began_s
    return _Flood(
        orders, wall_s, [_cpu_s(it) - was for it, was in zip(servers, before, strict=True)]
    )


def _packed(gate: Gate, user_id: int) -> bytes:
    order = Order.place(user_id, [Line(PRODUCT, 1)])
    keys = (gate.key, gate.bought, gate.held, f"{gate.tag}:order:{order.id}", gate.revoked)
    sha = load_script("labshop.storage", "reserve_stock").sha
    return pack(("EVALSHA", sha, len(keys), *keys, str(order.id), user_id, "", PRODUCT, 1))


def _send_all(urls: Sequence[str], batches: Sequence[Sequence[bytes]]) -> None:
    """Send the batches of each connection, one after the other, from a thread for each."""
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        targets = [urls[number % len(urls)] for number in range(CONNECTIONS)]
        list(threads.map(_send, targets, batches))


def _send(url: str, batches: Sequence[bytes]) -> None:
    port, _, database = url.rpartition(":")[2].partition("/")
    with socket.create_connection((LOOPBACK, int(port)), TIMEOUT_MS / 1_000) as connection:
        reader = hiredis.Reader()
        connection.sendall(pack(("SELECT", database or "0")))
        assert _replies(connection, reader, 1) == [b"OK"]
        for batch in batches:
            connection.sendall(batch)
            if _replies(connection, reader, BATCH) != [[b"reserved"]] * BATCH:
                raise RuntimeError("an order was not reserved")


def _replies(connection: socket.socket, reader: hiredis.Reader, count: int) -> list[object]:
    replies: list[object] = []
    while len(replies) < count:
        reply = reader.gets()
        if reply is False:
            reader.feed(connection.recv(65_536))
        else:
            replies.append(reply)
    return replies


async def _built(urls: Sequence[str]) -> list[Gate]:
    """The gates of a new sale, and the script known to their servers."""
    async with AsyncExitStack() as opened:
        nodes = await _nodes(urls, opened)
        inventory = ShardedInventory(nodes, _snapshot, clock=SystemClock())
        await inventory.gate.rebuild()
        for node in nodes:
            source = load_script("labshop.storage", "reserve_stock").source
            await node.command("SCRIPT", "LOAD", source)
        return [RedisInventory(it, _snapshot, clock=SystemClock()).gate for it in nodes]


async def _all_at_one_home(servers: Sequence[ServerNode], tally: Tally) -> None:
    users = [SHARDS * number for number in range(BORROWERS)]
    assert {home_of(user, SHARDS) for user in users} == {0}
    orders = [Order.place(user, [Line(PRODUCT, 1)]) for user in users]
    costs = []
    for count in (1, SHARDS):
        empty(servers)
        async with AsyncExitStack() as opened:
            nodes = await _nodes([server.url for server in servers[:count]], opened)
            inventory = ShardedInventory(nodes, _last_units, clock=SystemClock())
            await inventory.gate.rebuild()
            cpu_s = sum(map(_cpu_s, servers))
            await asyncio.gather(*map(inventory.reserve, orders))
            costs.append(sum(map(_cpu_s, servers)) - cpu_s)
            gate = inventory.gate
            loans = await gate.ask("HGET", gate.key, f"arrived:{PRODUCT}")
    tally.add(BORROWED, "server CPU / one key", costs[1] / costs[0])
    tally.add(BORROWED, f"loans for {BORROWERS} orders", int(loans or 0))


async def _nodes(urls: Sequence[str], opened: AsyncExitStack) -> list[Node]:
    nodes = [Node(url, timeout_ms=TIMEOUT_MS) for url in urls]
    for node in nodes:
        opened.push_async_callback(node.close)
    return nodes


async def _snapshot(units: int = 10**9) -> Snapshot:
    """A ledger's, of which the gate alone is measured."""
    now, hour = datetime.now(UTC), timedelta(hours=1)
    return Snapshot(Sale(1, "bench", now - hour, now + hour, 10), 0, {PRODUCT: units}, {})


async def _last_units() -> Snapshot:
    return await _snapshot(BORROWERS)


def _cpu_s(server: ServerNode) -> float:
    cpu = redis_info(server.port, "cpu", timeout_s=TIMEOUT_MS / 1_000)
    return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])
