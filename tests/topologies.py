"""Gates that outlive a server, for whoever tests on them: a Sentinel pair, and a Redis Cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labshop.stack.cluster import ServerCluster
from labshop.stack.sentinels import SentinelPair

NODE_TIMEOUT_MS = 500
"""Far below what an operator would take: a test waits for each failover."""


@contextmanager
def sentinel_gate(home: Path, server: Path | None = None) -> Iterator[str]:
    """The URL of a gate that three Sentinels watch, for the length of a body.

    Args:
        home: a new folder for its servers.
        server: the server to run; None takes the packaged Valkey.
    """
    with SentinelPair(home, server) as pair:
        yield pair.url


@contextmanager
def cluster_gate(home: Path, server: Path | None = None) -> Iterator[str]:
    """The URL of a gate in a Cluster of three masters with a replica each; see `sentinel_gate`."""
    with replicated_cluster(home, server) as cluster:
        yield cluster.url


def replicated_cluster(home: Path, server: Path | None = None) -> ServerCluster:
    """A Cluster in which a replica takes over soon."""
    return ServerCluster(home, server, has_replicas=True, node_timeout_ms=NODE_TIMEOUT_MS)
