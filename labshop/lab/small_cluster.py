"""A Redis Cluster of three masters, of plain processes, for a lesson to look into.

The problem: "cluster" names two things. Redlock's nodes know nothing of each other; a Redis Cluster
is one store in pieces, whose nodes agree on who has which piece. The idea: start the smallest one
that counts, and let a cell move a slot by the very commands that an operator's tool sends.

It has no replicas, so it does not promise to live on when a master dies.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from labshop.locks import Node, NodeError
from labshop.locks.cluster import SLOTS
from labshop.stack.leash import Leash
from labshop.stack.nodes import find_server
from labshop.stack.ports import LOOPBACK, free_port

MASTERS = 3
READY_S = 30.0
_POLL_S = 0.02


@dataclass(frozen=True)
class SmallCluster:
    """Three masters that share all slots; `ids` are their names among themselves."""

    urls: tuple[str, ...]
    nodes: tuple[Node, ...]
    ids: tuple[str, ...]
    leash: Leash

    def owner(self, slot: int) -> int:
        """Which of `nodes` had a slot at the beginning."""
        return next(n for n, (first, last) in enumerate(_shares()) if first <= slot <= last)

    async def close(self) -> None:
        """End the servers."""
        for node in self.nodes:
            await node.close()
        await asyncio.to_thread(self.leash.end)


async def start_cluster(home: Path, server: Path | None = None) -> SmallCluster:
    """Start three masters below a folder; returns when each serves.

    Args:
        home: a folder for their data.
        server: the server to run; None takes the packaged Valkey.

    Raises:
        SetupError: no server. TimeoutError: it did not form in time.
    """
    leash = Leash()
    try:
        ports = [_start(leash, find_server(server), home / f"master-{n}") for n in range(MASTERS)]
        urls = tuple(f"redis://{LOOPBACK}:{port}" for port in ports)
        nodes = tuple(Node(url, timeout_ms=2_000) for url in urls)
        async with asyncio.timeout(READY_S):
            ids = await _join(nodes)
    except BaseException:
        leash.end()
        raise
    return SmallCluster(urls, nodes, ids, leash)


def _start(leash: Leash, server: Path, folder: Path) -> int:
    folder.mkdir(parents=True)
    port = free_port()
    bus_port = free_port()
    while bus_port == port:
        bus_port = free_port()
    options = {
        "port": port,
        "cluster-port": bus_port,
        "bind": LOOPBACK,
        "dir": folder,
        "cluster-enabled": "yes",
        "cluster-node-timeout": 5_000,
        "save": "",
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with (folder / "server.log").open("ab") as output:
        leash.start([str(server), *arguments], output)
    return port


async def _join(nodes: Sequence[Node]) -> tuple[str, ...]:
    for number, (node, share) in enumerate(zip(nodes, _shares(), strict=True), start=1):
        await _until_it_answers(node)
        await node.command("CLUSTER", "ADDSLOTSRANGE", *share)
        # Each its own, or they would agree on it only after a while.
        await node.command("CLUSTER", "SET-CONFIG-EPOCH", number)
    for node in nodes[1:]:
        bus = await nodes[0].command("CONFIG", "GET", "cluster-port")
        port = dict(bus)["cluster-port"] if isinstance(bus, dict) else bus[1]
        await node.command("CLUSTER", "MEET", nodes[0].host, nodes[0].port, int(port))
    for node in nodes:
        while not await _knows_all(node):  # noqa: ASYNC110  # an event of another process
            await asyncio.sleep(_POLL_S)
    return tuple([str(await node.command("CLUSTER", "MYID")) for node in nodes])


async def _until_it_answers(node: Node) -> None:
    while True:
        try:
            await node.command("PING")
        except NodeError:
            await asyncio.sleep(_POLL_S)
        else:
            return


async def _knows_all(node: Node) -> bool:
    info = str(await node.command("CLUSTER", "INFO"))
    return "cluster_state:ok" in info and f"cluster_known_nodes:{MASTERS}" in info


def _shares() -> list[tuple[int, int]]:
    """The first and the last slot of each master."""
    cuts = [SLOTS * n // MASTERS for n in range(MASTERS + 1)]
    return [(first, after - 1) for first, after in pairwise(cuts)]
