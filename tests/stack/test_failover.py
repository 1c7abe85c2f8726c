"""Servers that watch each other, of the other kind: they form, fail over, and leave nothing."""

import os
import shutil
from pathlib import Path

import pytest

from labshop.locks import Node
from labshop.stack.cluster import ServerCluster
from labshop.stack.nodes import ServerNode
from labshop.stack.probe import redis_info
from labshop.stack.sentinels import SentinelPair
from tests.conftest import eventually, need_in_ci


@pytest.fixture
def redis_server() -> Path:
    if shutil.which("redis-server") is None:
        need_in_ci("redis-server is not installed; these tests ran on the packaged Valkey only")
    return Path("redis-server")


async def test_a_master_that_comes_back_follows_the_new_one(
    redis_server: Path, tmp_path: Path
) -> None:
    """Sentinels promote the replica of a dead master, and set that one aside when it is back."""
    with SentinelPair(tmp_path, redis_server) as pair:
        node = Node(pair.url, timeout_ms=2_000)
        assert await node.command("SET", "a", "b") == "OK"
        pair.primary.kill()
        await eventually(lambda: has_role(pair.replica, "master"))

        pair.primary.restart()

        await eventually(lambda: has_role(pair.primary, "slave"))
        await node.close()
        processes = [it.pid for it in pair.sentinels]
        processes += [it.pid or 0 for it in (pair.primary, pair.replica)]
    assert not any(runs(pid) for pid in processes)


def test_a_cluster_forms_of_debians_servers_and_ends(redis_server: Path, tmp_path: Path) -> None:
    """Six servers, of which three follow the three others; all end with the body."""
    with ServerCluster(tmp_path, redis_server, has_replicas=True) as cluster:
        for master, replica in zip(cluster.masters, cluster.replicas, strict=True):
            assert redis_info(replica.port, "replication")["master_port"] == str(master.port)
        processes = [node.pid or 0 for node in cluster.nodes]
    assert not any(runs(pid) for pid in processes)


async def has_role(node: ServerNode, role: str) -> bool:
    try:
        return redis_info(node.port, "replication").get("role") == role
    except OSError:
        # Whoever changes its role is made to drop its clients.
        return False


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
