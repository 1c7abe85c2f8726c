"""A Redis Cluster of three masters, for a lesson to look into.

The problem: a cell speaks to each node of a Cluster by itself, to see who has what. The idea: the
servers of `labshop.stack.cluster` with a connection to each, so that a cell can move a slot by the
very commands that an operator's tool sends.

It has no replicas, so it does not promise to live on when a master dies.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from labshop.locks import Node
from labshop.stack.cluster import ServerCluster
from labshop.stack.leash import Leash

TIMEOUT_MS = 2_000


@dataclass(frozen=True)
class SmallCluster:
    """Three masters that share all slots, and a connection to each."""

    nodes: tuple[Node, ...]
    servers: ServerCluster

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses of the masters."""
        return tuple(server.url for server in self.servers.masters)

    @property
    def ids(self) -> tuple[str, ...]:
        """The masters' names among themselves."""
        return self.servers.ids

    @property
    def leash(self) -> Leash:
        """What ends the servers."""
        return self.servers.leash

    def owner(self, slot: int) -> int:
        """Which of `nodes` had a slot at the beginning."""
        return self.servers.owner(slot)

    async def close(self) -> None:
        """End the servers."""
        for node in self.nodes:
            await node.close()
        await asyncio.to_thread(self.servers.stop)


async def start_cluster(home: Path, server: Path | None = None) -> SmallCluster:
    """Start three masters below a folder; returns when each serves.

    Args:
        home: a folder for their data.
        server: the server to run; None takes the packaged Valkey.

    Raises:
        SetupError: no server, or it did not form in time.
    """
    servers = ServerCluster(home, server)
    await asyncio.to_thread(servers.start)
    nodes = tuple(Node(master.url, timeout_ms=TIMEOUT_MS) for master in servers.masters)
    return SmallCluster(nodes, servers)
