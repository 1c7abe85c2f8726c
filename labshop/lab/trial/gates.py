"""Gates other than the arena's own server: a Sentinel pair, and a Redis Cluster.

The problem: both tell every client where a server really is, so no proxy can stand on that way. The
idea: a trial reaches such a gate by its URL, as any shop does, and hurts what the gate is there to
outlive: the master dies, and its replica takes over.

It does not promise that nothing is lost by that: what the dead master acknowledged last may be on
no replica. The ledger has to make up for it.

Source: see `labshop.stack.sentinels` and `labshop.stack.cluster`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from labshop.locks import Node
from labshop.locks.slots import slot_of
from labshop.stack.cluster import ServerCluster
from labshop.stack.faults.processes import killed
from labshop.stack.nodes import ServerNode
from labshop.stack.ports import LOOPBACK
from labshop.stack.probe import redis_info
from labshop.stack.sentinels import SentinelPair
from labshop.storage.gate import tag_of

GATE = "gate"
SALE = tag_of(1)
EMPTY_TIMEOUT_MS = 10_000
TAKEN_OVER_S = 30.0
_POLL_S = 0.01


@dataclass(frozen=True)
class OtherGate:
    """Where such a gate is, and what can die of it.

    `couple` are the two servers of which one is the master that sells. `is_known` tells whether
    those who lead clients there have heard that a server is the master now.
    """

    url: str
    couple: tuple[ServerNode, ServerNode]
    is_known: Callable[[ServerNode], bool]

    async def empty(self) -> None:
        """Make it forget everything."""
        node = Node(self.url, timeout_ms=EMPTY_TIMEOUT_MS, key=SALE)
        await node.command("FLUSHALL")
        await node.close()


def of_pair(pair: SentinelPair) -> OtherGate:
    """The gate that a Sentinel pair makes."""

    def is_known(master: ServerNode) -> bool:
        told = [redis_info(port, "sentinel").get("master0", "") for port in pair.ports]
        return all(f"status=ok,address={LOOPBACK}:{master.port}," in it for it in told)

    return OtherGate(pair.url, (pair.primary, pair.replica), is_known)


def of_cluster(cluster: ServerCluster) -> OtherGate:
    """The gate that a Cluster makes, whose masters have replicas: all of a sale is in one slot."""
    number = cluster.owner(slot_of(SALE))
    couple = cluster.masters[number], cluster.replicas[number]
    # The other masters have voted for it.
    return OtherGate(cluster.url, couple, lambda _master: True)


@contextmanager
def master_killed(gate: OtherGate) -> Iterator[None]:
    """Kill the master of a gate; the body begins when the replica has taken its place.

    At the end the dead one is back, as the replica of its successor.
    """
    first, second = gate.couple
    _wait_until(lambda: {_role(first), _role(second)} == {"master", "slave"})
    master, replica = (first, second) if _role(first) == "master" else (second, first)
    with killed(master):
        # Before all know, one of them may take the dead one that comes back for the master still.
        _wait_until(lambda: _role(replica) == "master" and gate.is_known(replica))
        yield
    _wait_until(lambda: redis_info(master.port, "replication").get("master_link_status") == "up")


def _role(server: ServerNode) -> str | None:
    """What it takes itself for; None while it loads its data."""
    return redis_info(server.port, "replication").get("role")


def _wait_until(happened: Callable[[], bool]) -> None:
    until_s = time.monotonic() + TAKEN_OVER_S
    while time.monotonic() < until_s:
        with suppress(OSError):  # a busy machine answers late
            if happened():
                return
        time.sleep(_POLL_S)
    raise TimeoutError(f"no replica took over within {TAKEN_OVER_S:.0f} s")
