"""A Redis Cluster as plain processes: three masters, and a replica of each if wanted.

The problem: "cluster" names two things. Redlock's nodes know nothing of each other; a Redis Cluster
is one store in pieces, whose nodes agree on who has which piece. The idea: start the smallest one
that counts. Three masters are the fewest of which a majority is left when one dies, and that
majority lets its replica take over.

Without replicas it does not promise to live on when a master dies. With them, it does not promise
that what the dead one acknowledged last is on its replica: replication is asynchronous.

Source: Redis documentation, "Scale with Redis Cluster" and "Redis cluster specification".
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from labshop.errors import SetupError
from labshop.locks.slots import SLOTS
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from labshop.stack.ports import LOOPBACK, free_port
from labshop.stack.probe import ask_redis, redis_info

MASTERS = 3
READY_S = 30.0
_POLL_S = 0.02


class ServerCluster:
    """Three masters that share all slots, for the length of a ``with`` body.

    Args:
        home: a folder for their data and logs.
        server: the server to run; None takes the packaged Valkey.
        has_replicas: whether each has a replica.
        node_timeout_ms: after so long without an answer a node is taken for dead.
    """

    def __init__(
        self,
        home: Path,
        server: Path | None = None,
        *,
        has_replicas: bool = False,
        node_timeout_ms: int = 5_000,
    ) -> None:
        self._home = home.absolute()
        self._server = server
        self._has_replicas = has_replicas
        self._node_timeout_ms = node_timeout_ms
        self._undo = ExitStack()
        self.masters: tuple[ServerNode, ...] = ()
        self.replicas: tuple[ServerNode, ...] = ()
        """Of each master one, or none at all."""
        self.ids: tuple[str, ...] = ()
        """The masters' names among themselves."""

    def start(self) -> None:
        """Start all; returns when each serves and knows the others.

        Raises:
            SetupError: no server, or they did not agree in time.
        """
        server = find_server(self._server)
        with ExitStack() as undo:
            self.leash = undo.enter_context(Leash())
            self.masters = tuple(self._node(f"master-{n}", server) for n in range(MASTERS))
            names = [f"replica-{n}" for n in range(MASTERS) if self._has_replicas]
            self.replicas = tuple(self._node(name, server) for name in names)
            for node in self.nodes:
                undo.callback(node.kill)
                node.start()
            self._join()
            self._undo = undo.pop_all()

    def stop(self) -> None:
        """End all; a no-op when nothing runs."""
        self._undo.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def nodes(self) -> tuple[ServerNode, ...]:
        """All of them."""
        return self.masters + self.replicas

    @property
    def url(self) -> str:
        """Its masters at the beginning, as `LABSHOP_GATE_URL` takes them."""
        return f"redis+cluster://{','.join(f'{LOOPBACK}:{it.port}' for it in self.masters)}"

    def owner(self, slot: int) -> int:
        """Which of `masters` had a slot at the beginning."""
        return next(n for n, (first, last) in enumerate(_shares()) if first <= slot <= last)

    def _node(self, name: str, server: Path) -> ServerNode:
        options = {
            "cluster-enabled": "yes",
            "cluster-port": str(free_port()),
            "cluster-node-timeout": str(self._node_timeout_ms),
            # A replica may take over however long a busy machine kept it from its master.
            "cluster-replica-validity-factor": "0",
        }
        folder = self._home / name
        return ServerNode(NodeSpec(name, "lock"), server, folder, self.leash, options=options)

    def _join(self) -> None:
        for number, (master, share) in enumerate(zip(self.masters, _shares(), strict=True), 1):
            _order(master, f"CLUSTER ADDSLOTSRANGE {share[0]} {share[1]}")
            # Each its own, or they would agree on it only after a while.
            _order(master, f"CLUSTER SET-CONFIG-EPOCH {number}")
        first, *others = self.nodes
        for node in others:
            _order(node, f"CLUSTER MEET {LOOPBACK} {first.port} {_bus_port(first)}")
        self._wait(self._all_know_all)
        self.ids = tuple(ask_redis(it.port, "CLUSTER MYID") for it in self.masters)
        for replica, master_id in zip(self.replicas, self.ids, strict=False):
            _order(replica, f"CLUSTER REPLICATE {master_id}")
        self._wait(self._all_follow)

    def _wait(self, happened: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + READY_S
        while not happened():
            if time.monotonic() > deadline_s:
                raise SetupError(f"The Cluster did not form within {READY_S:.0f} s.")
            time.sleep(_POLL_S)

    def _all_know_all(self) -> bool:
        known = f"cluster_known_nodes:{len(self.nodes)}"
        told = [ask_redis(it.port, "CLUSTER INFO") for it in self.nodes]
        return all("cluster_state:ok" in it and known in it for it in told)

    def _all_follow(self) -> bool:
        """Whether every replica has its master's data, and the masters know of it."""
        links = [redis_info(it.port, "replication") for it in self.replicas]
        if any(link.get("master_link_status") != "up" for link in links):
            return False
        told = [ask_redis(it.port, "CLUSTER NODES") for it in self.nodes]
        return all(it.count(" slave ") + it.count(",slave ") == len(self.replicas) for it in told)


def _order(node: ServerNode, command: str) -> None:
    answer = ask_redis(node.port, command)
    if answer != "+OK":
        raise SetupError(f"{node.spec.name} refuses {command!r}: {answer}")


def _bus_port(node: ServerNode) -> int:
    """Where the other nodes reach it."""
    about_itself = next(
        line for line in ask_redis(node.port, "CLUSTER NODES").splitlines() if "myself" in line
    )
    return int(about_itself.split()[1].partition("@")[2].partition(",")[0])


def _shares() -> list[tuple[int, int]]:
    """The first and the last slot of each master."""
    cuts = [SLOTS * n // MASTERS for n in range(MASTERS + 1)]
    return [(first, after - 1) for first, after in pairwise(cuts)]
