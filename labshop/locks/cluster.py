"""Locks on a Redis Cluster: each on the master that owns its slot.

A Cluster is not what Redlock needs: it is one store in several pieces, and each key lives on one
master with its replicas. So a lock there is a `SingleLock`, with what that promises, on whichever
node has the key at the moment; all keys of one lock share a hash tag.

When a slot moves or a replica takes over, a node answers MOVED or nothing at all; then the map is
read anew. A lease that was granted before a failover may be gone with the old master: replication
is asynchronous, and the fencing token may repeat. The ledger has to have a fence of its own.
While a slot is on its way from one master to another, its locks are not to be had (ASK).

Source: Redis documentation, "Redis cluster specification", key distribution and redirection.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from labshop.clock import Clock, SystemClock
from labshop.locks.base import LockEventHook, ignore_event
from labshop.locks.connection import Node
from labshop.locks.errors import NodeDown, NodeError, NodeRefused
from labshop.locks.grant import hold
from labshop.locks.keys import lock_key
from labshop.locks.lease import HeldLease
from labshop.locks.renewal import Renewal
from labshop.locks.single import SingleLock
from labshop.locks.slots import slot_of


class Cluster:
    """A Redis Cluster, seen from this process.

    Args:
        seeds: URLs of some of its nodes; the others are learnt from them.
        timeout_ms: how long one command may take.
    """

    def __init__(self, seeds: Sequence[str], *, timeout_ms: int) -> None:
        self._timeout_ms = timeout_ms
        self._first_seed = seeds[0]
        self._seeds = [Node(url, timeout_ms=timeout_ms) for url in seeds]
        self._nodes: dict[str, Node] = {node.name: node for node in self._seeds}
        self._ranges: list[tuple[int, int, Node]] = []

    async def node_of(self, key: str) -> Node:
        """The master that owns a key's slot, as far as is known.

        Raises:
            NodeDown: no node knows of one.
        """
        if not self._ranges:
            await self.refresh()
        slot = slot_of(key)
        for first, last, node in self._ranges:
            if first <= slot <= last:
                return node
        raise NodeDown("the cluster", f"nobody serves slot {slot}")

    async def refresh(self) -> None:
        """Read the map of slots anew, from the first node that answers.

        Raises:
            NodeDown: none does.
        """
        reasons: dict[str, str] = {}
        for node in tuple(self._nodes.values()):
            try:
                ranges = await node.command("CLUSTER", "SLOTS")
            except NodeError as error:
                reasons[node.name] = error.reason
                continue
            self._ranges = [
                (first, last, self._node(master[0] or node.host, master[1]))
                for first, last, master, *_ in ranges
            ]
            return
        raise NodeDown("the cluster", "; ".join(f"{n}: {why}" for n, why in reasons.items()))

    def lock(
        self,
        key: str,
        *,
        ttl_ms: int,
        clock: Clock | None = None,
        on_event: LockEventHook = ignore_event,
    ) -> "ClusterLock":
        """A lock on a key, wherever that is kept; see `SingleLock` for the arguments."""
        return ClusterLock(self, key, ttl_ms=ttl_ms, clock=clock, on_event=on_event)

    async def close(self) -> None:
        """Drop all connections."""
        for node in self._nodes.values():
            await node.close()

    def _node(self, host: str, port: int) -> Node:
        name = f"{host}:{port}"
        if name not in self._nodes:
            # The same user, password and kind of connection as to the node that told of it.
            scheme, _, rest = self._first_seed.partition("://")
            credentials = rest.rpartition("@")[0]
            url = f"{scheme}://{credentials + '@' if credentials else ''}{name}"
            self._nodes[name] = Node(url, timeout_ms=self._timeout_ms)
        return self._nodes[name]


class ClusterLock:
    """A `SingleLock` on the node that owns its key."""

    def __init__(
        self,
        cluster: Cluster,
        key: str,
        *,
        ttl_ms: int,
        clock: Clock | None,
        on_event: LockEventHook,
    ) -> None:
        self.key = key
        self.clock = clock or SystemClock()
        self._cluster = cluster
        self._ttl_ms = ttl_ms
        self._on_event = on_event

    async def acquire(self, *, wait_ms: float) -> HeldLease:
        """Acquire on the owner of the key; where that has changed, once more on the new one.

        Raises:
            LockTimeout: it was not free in time. NodeError: the owner could not be asked.
        """
        until_ms = self.clock.now_ms() + wait_ms
        try:
            return await self._acquire(wait_ms)
        except NodeError as error:
            if isinstance(error, NodeRefused) and not error.reason.startswith("MOVED"):
                raise
            await self._cluster.refresh()
        return await self._acquire(max(0.0, until_ms - self.clock.now_ms()))

    def hold(
        self, *, wait_ms: float, renewal: Renewal | None = None
    ) -> AbstractAsyncContextManager[HeldLease]:
        """Acquire for the length of an ``async with`` body; see `SingleLock.hold`."""
        return hold(self, wait_ms, renewal)

    async def _acquire(self, wait_ms: float) -> HeldLease:
        node = await self._cluster.node_of(lock_key(self.key))
        lock = SingleLock(
            node, self.key, ttl_ms=self._ttl_ms, clock=self.clock, on_event=self._on_event
        )
        return await lock.acquire(wait_ms=wait_ms)
