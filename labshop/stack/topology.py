"""The lab's nodes as one thing that is started and surely stopped.

The problem: a lesson, a test and ``labshop up`` all need the same servers, and each may be
interrupted at any moment. The idea: one description of the topology, of which a profile is a
part; whoever starts it is its supervisor, be it a terminal, a test or a notebook's kernel. What
was started is undone in reverse order, also when only half of it was.

It does not promise to bring back a node that dies: nodes are killed on purpose here.
"""

import os
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from labshop.errors import SetupError
from labshop.stack.faults.shim import hurtable
from labshop.stack.home import HomeLock, NodeState, State, read_state
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server

__all__ = [
    "DEFAULT_PROFILE",
    "TOPOLOGY",
    "NodeState",
    "State",
    "Topology",
    "read_state",
    "specs_of",
]

TOPOLOGY = (
    NodeSpec("primary", "primary"),
    NodeSpec("replica", "replica", replica_of="primary"),
    NodeSpec("lock-1", "lock"),
    NodeSpec("lock-2", "lock"),
    NodeSpec("lock-3", "lock"),
    NodeSpec("lock-4", "lock"),
    NodeSpec("lock-5", "lock"),
)
"""Every node there is, each after the one that it follows."""

DEFAULT_PROFILE = "04_production"
_ROLES_OF_PROFILE = {
    "01_setnx": {"primary", "replica"},
    "02_multilock": {"primary", "replica"},
    "03_redlock": {"primary", "replica", "lock"},
    "04_production": {"primary", "replica", "lock"},
}


def specs_of(profile: str) -> tuple[NodeSpec, ...]:
    """Return the nodes that a lesson needs.

    Raises:
        SetupError: there is no such profile.
    """
    roles = _ROLES_OF_PROFILE.get(profile)
    if roles is None:
        known = ", ".join(_ROLES_OF_PROFILE)
        raise SetupError(f"There is no profile {profile!r}; the profiles are: {known}.")
    return tuple(spec for spec in TOPOLOGY if spec.role in roles)


class Topology:
    """The nodes of one home folder, supervised by this process.

    Args:
        home: folder for the nodes' data, their logs and the state file; made when missing.
        server: the server to run; None takes the packaged Valkey.
        specs: the nodes to start, each after the one that it follows.
    """

    def __init__(
        self,
        home: Path,
        server: Path | None = None,
        specs: tuple[NodeSpec, ...] = specs_of("01_setnx"),
    ) -> None:
        self.home = home.absolute()
        self.nodes: dict[str, ServerNode] = {}
        self._server = server
        self._specs = specs
        self._undo = ExitStack()
        self._started_at = ""

    def start(self) -> None:
        """Start every node; when one does not come up, stop those that did.

        Raises:
            SetupError: no server, no usable folder, the lab already runs there, or a node
                ended at its start.
        """
        server = find_server(self._server)
        with ExitStack() as undo:
            self._lock = undo.enter_context(HomeLock(self.home))
            self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
            self.nodes = {}
            self.announce(api_url=None)
            self.leash = undo.enter_context(Leash(keep=(self._lock.descriptor,)))
            for spec in self._specs:
                node = self._node(spec, server)
                undo.callback(node.stop)
                node.start()
                self.nodes[spec.name] = node
            self.announce(api_url=None)
            self._undo = undo.pop_all()

    def stop(self) -> None:
        """Stop every node and free the folder; a no-op when nothing runs."""
        self._undo.close()

    def announce(self, api_url: str | None) -> None:
        """Write down, for other processes, where the nodes are and where the API is."""
        nodes = tuple(
            NodeState(name, node.spec.role, node.url, node.pid or 0)
            for name, node in self.nodes.items()
        )
        self._lock.write_state(State(os.getpid(), self._started_at, nodes, api_url))

    def lock_urls(self) -> tuple[str, ...]:
        """The addresses of the independent masters of a quorum; none where none were started."""
        return tuple(node.url for node in self.nodes.values() if node.spec.role == "lock")

    def __getitem__(self, name: str) -> ServerNode:
        return self.nodes[name]

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

    def _node(self, spec: NodeSpec, server: Path) -> ServerNode:
        primary = self.nodes[spec.replica_of] if spec.replica_of else None
        folder = self.home / "nodes" / spec.name
        return ServerNode(spec, server, folder, self.leash, primary, hurtable(folder))
