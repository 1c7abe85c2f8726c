"""A crash, a hang and a lost disk are made for real, and healed whatever interrupts the body."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from http import HTTPStatus
from pathlib import Path

import pytest

from labshop.stack.faults import emptied, frozen, killed, power_lost
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from labshop.stack.ports import LOOPBACK, free_port
from labshop.stack.probe import ask_redis, http_get, redis_info
from labshop.stack.shop_api import ApiProcess

PATIENCE_S = 10.0
WaitUntil = Callable[[Callable[[], bool]], None]
Fault = Callable[[ServerNode], AbstractContextManager[ServerNode]]


@pytest.fixture
def node(server: Path | None, leash: Leash, tmp_path: Path) -> Iterator[ServerNode]:
    """A node of this test's own, of each kind of server."""
    node = ServerNode(
        NodeSpec("primary", "primary"), find_server(server), tmp_path / "primary", leash
    )
    node.start()
    yield node
    node.kill()


@pytest.fixture
def api(valkey: ServerNode, leash: Leash, tmp_path: Path) -> Iterator[ApiProcess]:
    """The shop's API, at work."""
    home = tmp_path / "home"
    home.mkdir()
    api = ApiProcess(leash, home, gate_url=valkey.url, host=LOOPBACK, port=free_port())
    api.start()
    yield api
    api.kill()


def ask(node: ServerNode, command: str) -> str:
    return ask_redis(node.port, command, timeout_s=PATIENCE_S)


def held(node: ServerNode) -> set[str]:
    """Which of the tests' keys are there."""
    return {key for key in ("base", "old", "young") if ask(node, f"EXISTS {key}") == ":1"}


def write_old_and_young(node: ServerNode) -> None:
    """Write one key, let it become older than two seconds, and write another."""
    assert ask(node, "SET old 1") == "+OK"
    time.sleep(2.1)
    assert ask(node, "SET young 1") == "+OK"


def test_a_crash_loses_nothing_that_was_answered(node: ServerNode) -> None:
    """Control of the power losses: after SIGKILL, what was written a moment ago is there."""
    assert ask(node, "SET young 1") == "+OK"
    pid = node.pid
    with killed(node):
        assert not node.alive
        assert node.exit_code == -signal.SIGKILL

    assert node.pid != pid
    assert held(node) == {"young"}


@pytest.mark.parametrize(
    ("policy", "left"),
    [("always", {"old", "young"}), ("everysec", {"old"}), ("no", set())],
)
def test_a_power_loss_takes_what_no_fsync_need_have_seen(
    policy: str, left: set[str], node: ServerNode
) -> None:
    """`always` loses nothing, `everysec` the last second, `no` the last half minute."""
    assert ask(node, f"CONFIG SET appendfsync {policy}") == "+OK"
    write_old_and_young(node)
    with power_lost(node):
        assert not node.alive

    assert held(node) == left
    assert ask(node, "SET young 1") == "+OK"


def test_a_power_loss_spares_a_rewritten_base(node: ServerNode, wait_until: WaitUntil) -> None:
    """A file of several parts loses its young end alone, and loads."""
    assert ask(node, "SET base 1") == "+OK"
    assert ask(node, "BGREWRITEAOF").startswith("+")
    persistence = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")
    wait_until(
        lambda: all(redis_info(node.port, "persistence")[field] == "0" for field in persistence)
    )
    write_old_and_young(node)
    with power_lost(node):
        pass

    assert held(node) == {"base", "old"}


def test_a_power_loss_right_after_a_rewrite_takes_all_that_followed(
    node: ServerNode, wait_until: WaitUntil
) -> None:
    """The base is on disk before it counts; what came after it is young."""
    assert ask(node, "SET base 1") == "+OK"
    assert ask(node, "BGREWRITEAOF").startswith("+")
    manifest = node.folder / "appendonlydir" / "appendonly.aof.manifest"
    wait_until(lambda: "2.base.aof" in manifest.read_text())
    assert ask(node, "SET young 1") == "+OK"
    with power_lost(node):
        pass

    assert held(node) == {"base"}


def test_a_hanging_node_can_lose_its_power(node: ServerNode) -> None:
    """A frozen node answers no question, and its young data is lost all the same."""
    assert ask(node, "SET young 1") == "+OK"
    node.freeze()
    with power_lost(node):
        pass

    assert not node.frozen
    assert held(node) == set()


def test_an_emptied_node_empties_its_replica(
    server: Path | None, node: ServerNode, leash: Leash, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """A primary that comes back without data is followed faithfully: all copies are gone."""
    replica = ServerNode(
        NodeSpec("replica", "replica", "primary"),
        find_server(server),
        tmp_path / "replica",
        leash,
        node,
    )
    replica.start()
    try:
        assert ask(node, "SET young 1") == "+OK"
        assert ask(node, "WAIT 1 5000") == ":1"
        with emptied(node):
            assert held(replica) == {"young"}

        assert held(node) == set()
        wait_until(lambda: held(replica) == set())
    finally:
        replica.kill()


def test_what_is_sent_to_a_hanging_node_is_carried_out_later(
    node: ServerNode, wait_until: WaitUntil
) -> None:
    """A timeout is indefinite: the write that timed out is there after the thaw."""
    with frozen(node), pytest.raises(TimeoutError):
        ask_redis(node.port, "SET young 1", timeout_s=0.2)

    wait_until(lambda: held(node) == {"young"})


@pytest.mark.parametrize("fault", [killed, power_lost, emptied, frozen])
def test_an_interrupted_body_heals(fault: Fault, node: ServerNode) -> None:
    """After a Ctrl-C in the body the node serves."""
    with pytest.raises(KeyboardInterrupt), fault(node):
        raise KeyboardInterrupt

    assert ask(node, "PING") == "+PONG"


@pytest.mark.parametrize(
    ("fault", "act"),
    [(killed, "kill"), (power_lost, "kill"), (emptied, "kill"), (frozen, "freeze")],
)
def test_an_interrupted_entry_heals(
    fault: Fault, act: str, node: ServerNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ctrl-C that comes when the fault already acts, but before the body, heals it too."""
    really_act = getattr(node, act)

    def act_and_be_interrupted() -> None:
        monkeypatch.undo()
        really_act()
        raise KeyboardInterrupt

    monkeypatch.setattr(node, act, act_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt), fault(node):
        pytest.fail("the body was entered")

    assert ask(node, "PING") == "+PONG"


def test_faults_of_one_node_can_be_nested(node: ServerNode) -> None:
    """A fault inside another heals with it, and restarts the node once."""
    pid = node.pid
    with frozen(node), killed(node):
        assert not node.alive
    again = node.pid
    with killed(node), killed(node):
        assert not node.alive

    assert ask(node, "PING") == "+PONG"
    assert len({pid, again, node.pid}) == 3


def test_a_node_that_the_body_brings_back_is_left_alone(node: ServerNode) -> None:
    """A restart in the body is the restart: what is written after it stays in memory."""
    with killed(node):
        node.restart()
        pid = node.pid

    assert node.pid == pid


def test_the_api_crashes_and_comes_back(api: ApiProcess) -> None:
    """The API is dead in the body, and is another process on the same address after it."""
    pid = api.pid
    with killed(api):
        with pytest.raises(ConnectionRefusedError):
            http_get(f"{api.url}/healthz")
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    assert api.pid != pid
    assert http_get(f"{api.url}/healthz", PATIENCE_S)[0] == HTTPStatus.OK


def test_the_api_hangs_and_goes_on(api: ApiProcess) -> None:
    """The API answers nothing in the body, and the same process answers after it."""
    pid = api.pid
    with frozen(api), pytest.raises(TimeoutError):
        http_get(f"{api.url}/healthz", timeout_s=0.3)

    assert http_get(f"{api.url}/healthz", PATIENCE_S)[0] == HTTPStatus.OK
    assert api.pid == pid
