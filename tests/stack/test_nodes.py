"""Nodes are real servers that can be killed, frozen and brought back."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labshop.errors import SetupError
from labshop.stack import nodes
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from labshop.stack.ports import free_port
from labshop.stack.probe import answering_pid, ask_redis, redis_info

PRIMARY = NodeSpec("primary", "primary")
REPLICA = NodeSpec("replica", "replica", replica_of="primary")


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., ServerNode]]:
    """Make nodes, each in a folder that bears its name, and stop them at the end."""
    made: list[ServerNode] = []

    def make(spec: NodeSpec, program: Path, primary: ServerNode | None = None) -> ServerNode:
        node = ServerNode(spec, program, tmp_path / spec.name, leash, primary)
        made.append(node)
        return node

    with Leash() as leash:
        yield make
        for node in reversed(made):
            node.stop()


@pytest.fixture
def primary(server: Path | None, make_node: Callable[..., ServerNode]) -> ServerNode:
    node = make_node(PRIMARY, find_server(server))
    node.start()
    return node


@pytest.fixture
def replica(
    server: Path | None, primary: ServerNode, make_node: Callable[..., ServerNode]
) -> ServerNode:
    node = make_node(REPLICA, find_server(server), primary)
    node.start()
    return node


def test_a_started_node_answers_and_writes_its_log_each_second(primary: ServerNode) -> None:
    """When start returns, the node itself serves commands and has an everysec AOF."""
    assert answering_pid(primary.port) == primary.pid
    assert primary.url == f"redis://127.0.0.1:{primary.port}"
    assert redis_info(primary.port, "persistence")["aof_enabled"] == "1"


def test_a_killed_node_comes_back_with_its_data(primary: ServerNode) -> None:
    """After SIGKILL and a restart, port and data are the same and the process is another."""
    assert ask_redis(primary.port, "SET stock 100") == "+OK"
    port, pid = primary.port, primary.pid
    primary.kill()
    assert not primary.alive
    assert primary.exit_code == -9
    with pytest.raises(ConnectionRefusedError):
        ask_redis(port, "PING")

    primary.restart()

    assert primary.port == port
    assert primary.pid != pid
    assert ask_redis(port, "GET stock") == "100"


def test_a_stopped_node_comes_back_with_its_data(primary: ServerNode) -> None:
    """An orderly stop, and one more, lose nothing."""
    assert ask_redis(primary.port, "SET stock 100") == "+OK"
    primary.stop()
    primary.stop()
    assert primary.exit_code == 0
    primary.restart()
    assert ask_redis(primary.port, "GET stock") == "100"


def test_a_frozen_node_answers_nothing_until_it_is_thawed(primary: ServerNode) -> None:
    """A PING to a frozen node runs into its deadline, and is answered after the thaw."""
    primary.freeze()
    assert primary.alive
    with pytest.raises(TimeoutError):
        ask_redis(primary.port, "PING", timeout_s=0.2)
    primary.thaw()
    assert ask_redis(primary.port, "PING", timeout_s=5.0) == "+PONG"


def test_a_node_can_be_frozen_again_and_stopped_while_frozen(primary: ServerNode) -> None:
    """Freezing twice is one freeze, and a frozen node still ends in order."""
    primary.freeze()
    primary.freeze()
    primary.stop()
    assert primary.exit_code == 0
    assert not primary.frozen


def test_a_replica_follows_its_primary(primary: ServerNode, replica: ServerNode) -> None:
    """When start returns, the link is up: what the primary acknowledges to WAIT is there."""
    assert redis_info(replica.port, "replication")["master_link_status"] == "up"
    assert ask_redis(primary.port, "SET stock 100") == "+OK"
    assert ask_redis(primary.port, "WAIT 1 5000", timeout_s=6.0) == ":1"
    assert ask_redis(replica.port, "GET stock") == "100"


def test_a_replica_restarts_while_its_primary_is_dead(
    primary: ServerNode, replica: ServerNode
) -> None:
    """A restart does not wait for a link that nobody can give, and the data is still there."""
    assert ask_redis(primary.port, "SET stock 100") == "+OK"
    assert ask_redis(primary.port, "WAIT 1 5000", timeout_s=6.0) == ":1"
    primary.kill()
    replica.restart()
    assert redis_info(replica.port, "replication")["master_link_status"] == "down"
    assert ask_redis(replica.port, "GET stock") == "100"


def test_each_server_reads_the_data_of_the_other(
    redis_server: Path, make_node: Callable[..., ServerNode]
) -> None:
    """A folder that Valkey wrote serves Redis, and the other way round."""
    for count, program in enumerate([find_server(None), redis_server, find_server(None)], start=1):
        node = make_node(PRIMARY, program)
        node.start()
        assert ask_redis(node.port, "INCR starts") == f":{count}"
        node.stop()


def test_a_port_that_is_grabbed_in_between_is_replaced(
    make_node: Callable[..., ServerNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose port was taken after it was chosen starts on another."""
    with socket.create_server(("127.0.0.1", 0)) as grabber:
        ports = iter([grabber.getsockname()[1], free_port()])
        monkeypatch.setattr(nodes, "free_port", lambda: next(ports))
        node = make_node(PRIMARY, find_server(None))
        node.start()
        assert node.port != grabber.getsockname()[1]
        assert answering_pid(node.port) == node.pid


def test_a_server_that_dies_at_its_start_is_quoted(
    make_node: Callable[..., ServerNode], fake_server: Callable[[str], Path]
) -> None:
    """The error carries the last line of the server's log, and no process is left."""
    program = fake_server("echo starting; echo no luck today; exit 1")
    node = make_node(PRIMARY, program)
    with pytest.raises(SetupError, match="primary ended at its start: no luck today"):
        node.start()
    assert not node.alive


def test_a_server_that_is_no_program_is_named(
    make_node: Callable[..., ServerNode], tmp_path: Path
) -> None:
    """A file that the system cannot run gives a sentence."""
    program = tmp_path / "picture"
    program.write_bytes(b"\x00\x01")
    program.chmod(0o755)
    node = make_node(PRIMARY, program)
    with pytest.raises(SetupError, match=r"cannot be started from .*picture: Exec format error"):
        node.start()


def test_a_missing_server_is_named() -> None:
    """A setting that names nothing gives a sentence with the setting's name."""
    with pytest.raises(SetupError, match="LABSHOP_REDIS_SERVER names /no/such/server"):
        find_server(Path("/no/such/server"))


def test_a_bare_name_is_looked_up_as_a_shell_does(redis_server: Path) -> None:
    """A name without a folder is found in PATH, and links are kept as they are."""
    assert find_server(Path("redis-server")) == redis_server
