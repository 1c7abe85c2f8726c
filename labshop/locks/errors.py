"""Everything that can go wrong with a lock, as a tree.

    LockError
    ├── LockTimeout     contended: others held it for as long as the caller was ready to wait
    ├── NoQuorum        too few nodes could be asked; says which, and why
    ├── LockExpired     granted, but so late that nothing of its time was left
    ├── LockLost        the lease had ended, or is another's by now
    ├── DeadlockError   this waiter was chosen to end a cycle of waiters
    └── NodeError       one node
        ├── NodeDown      the command was not sent
        ├── NodeRefused   the node answered with an error
        └── NodeSilent    sent, and no answer: nobody knows whether it was carried out

Each is *definite* (it surely did not happen) or *indefinite* (nobody knows). A lock that could
not be had is definite for its caller: whatever a node may still have set is undone.
"""

from collections.abc import Mapping, Sequence


class LockError(Exception):
    """Any failure of a lock."""

    definite = True
    """False when nobody knows whether the command took effect."""


class LockTimeout(LockError):
    """The lock was held by others for as long as the caller was ready to wait."""

    def __init__(self, key: str, wait_ms: float) -> None:
        super().__init__(f"{key} was not free within {wait_ms:.0f} ms")
        self.key = key
        self.wait_ms = wait_ms


class NoQuorum(LockError):
    """Too few nodes answered for a majority."""

    def __init__(self, key: str, quorum: int, nodes: Mapping[str, str]) -> None:
        told = "; ".join(f"{node}: {reason}" for node, reason in sorted(nodes.items()))
        super().__init__(f"{key} needs {quorum} nodes, and too many cannot vote: {told}")
        self.key = key
        self.quorum = quorum
        self.nodes = nodes
        """Why each node that could not vote could not, by its name."""


class LockExpired(LockError):
    """The lock was granted, and by then its time was over."""

    def __init__(self, key: str, ttl_ms: float, elapsed_ms: float) -> None:
        super().__init__(f"{key} was granted after {elapsed_ms:.0f} ms, for {ttl_ms:.0f} ms")
        self.key = key
        self.ttl_ms = ttl_ms
        self.elapsed_ms = elapsed_ms


class LockLost(LockError):
    """The lease has ended: its time ran out, or its key was removed."""

    def __init__(self, key: str, token: str) -> None:
        super().__init__(f"the lease on {key} has ended")
        self.key = key
        self.token = token


class DeadlockError(LockError):
    """Each of a cycle of owners waits for what the next one holds; this one gives way."""

    def __init__(self, owner: str, cycle: Sequence[tuple[str, str]]) -> None:
        told = ", ".join(f"{waiter} waits for {key}" for waiter, key in cycle)
        super().__init__(f"{owner} gives way in a deadlock: {told}")
        self.owner = owner
        self.cycle = tuple(cycle)
        """The owners of the cycle, each with the key it waits for, which the next one holds."""


class NodeError(LockError):
    """A node could not be asked, refused, or did not answer."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"Redis at {node}: {reason}")
        self.node = node
        self.reason = reason


class NodeDown(NodeError):
    """The command was not sent: nothing happened."""


class NodeRefused(NodeError):
    """The node answered with an error: nothing happened."""


class NodeSilent(NodeError):
    """The command was sent and not answered: nobody knows whether it was carried out."""

    definite = False
