"""A topology starts whole or not at all, and one folder has one supervisor."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from labshop.errors import SetupError
from labshop.stack.home import HomeLock, State, is_held, read_state
from labshop.stack.nodes import ServerNode
from labshop.stack.probe import answering_pid, ask_redis
from labshop.stack.topology import TOPOLOGY, Topology, specs_of

SUPERVISOR = """
import sys
from pathlib import Path
from labshop.stack.topology import Topology
with Topology(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_profile_is_a_part_of_the_one_description() -> None:
    """The first lesson needs a primary and its replica, the third all seven nodes."""
    assert [spec.name for spec in specs_of("01_setnx")] == ["primary", "replica"]
    assert specs_of("02_multilock") == specs_of("01_setnx")
    assert specs_of("03_redlock") == specs_of("04_production") == TOPOLOGY
    assert len(TOPOLOGY) == 7
    with pytest.raises(SetupError, match="no profile 'nine'; the profiles are: 01_setnx, 02_multi"):
        specs_of("nine")


def test_all_nodes_start_and_stop(server: Path | None, tmp_path: Path) -> None:
    """Every node answers while the topology runs, none after it, and stopping twice is fine."""
    with Topology(tmp_path / "home", server, TOPOLOGY) as topology:
        ports = {name: topology[name].port for name in topology.nodes}
        assert len(set(ports.values())) == 7
        assert [answering_pid(port) for port in ports.values()] == [
            node.pid for node in topology.nodes.values()
        ]
    topology.stop()
    assert [answering_pid(port) for port in ports.values()] == [None] * 7


def test_the_state_tells_other_processes_where_the_nodes_are(tmp_path: Path) -> None:
    """The state names supervisor, nodes and API while it runs, and is gone afterwards."""
    with Topology(tmp_path) as topology:
        topology.announce("http://127.0.0.1:8000")
        state = read_state(tmp_path)
        assert state is not None
        assert state.supervisor_pid == os.getpid()
        assert [(node.name, node.role) for node in state.nodes] == [
            ("primary", "primary"),
            ("replica", "replica"),
        ]
        assert state.url_of("primary") == topology["primary"].url
        assert state.url_of("lock-1") is None
        assert state.api_url == "http://127.0.0.1:8000"
    assert read_state(tmp_path) is None
    assert not (tmp_path / "state.json").exists()


def test_data_outlives_the_topology(tmp_path: Path) -> None:
    """What the primary held is there when the topology starts again."""
    with Topology(tmp_path) as topology:
        assert ask_redis(topology["primary"].port, "SET stock 100") == "+OK"
    with topology:
        assert ask_redis(topology["primary"].port, "GET stock") == "100"


def test_a_second_supervisor_is_refused(tmp_path: Path) -> None:
    """Two at once: the second is told of the first, which goes on."""
    with Topology(tmp_path) as topology:
        sentence = rf"already running here \(process {os.getpid()}\).*labshop down"
        with pytest.raises(SetupError, match=sentence):
            Topology(tmp_path).start()
        assert answering_pid(topology["primary"].port) == topology["primary"].pid
        assert read_state(tmp_path) is not None


def test_a_stale_state_is_ignored_and_replaced(tmp_path: Path) -> None:
    """A state file without its lock counts for nothing, though its process id is in use."""
    stale = {"supervisor_pid": os.getpid(), "started_at": "", "nodes": [], "api_url": "http://x"}
    (tmp_path / "state.json").write_text(json.dumps(stale))
    (tmp_path / "lock").touch()
    assert read_state(tmp_path) is None
    with Topology(tmp_path):
        state = read_state(tmp_path)
        assert state is not None
        assert state.api_url is None
        assert len(state.nodes) == 2


def test_the_next_supervisor_starts_right_after_a_killed_one(tmp_path: Path) -> None:
    """Start waits for the servers that a kill -9 left, and then takes their data over."""
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        state = read_state(tmp_path)
        assert state is not None
        assert ask_redis(int(state.nodes[0].url.rpartition(":")[2]), "SET stock 100") == "+OK"
    finally:
        process.kill()
        process.communicate()
    with Topology(tmp_path) as topology:
        assert ask_redis(topology["primary"].port, "GET stock") == "100"


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    """A state file that a hand has spoilt gives a sentence."""
    with HomeLock(tmp_path) as lock:
        lock.write_state(State(os.getpid(), "2026-01-01T00:00:00+00:00"))
        (tmp_path / "state.json").write_text("{")
        with pytest.raises(SetupError, match=r"state\.json is damaged"):
            read_state(tmp_path)


@pytest.mark.parametrize("folder", ["file", "file/home"])
def test_a_home_that_is_no_folder_is_refused(folder: str, tmp_path: Path) -> None:
    """A file in the place of the home folder, or above it, gives a sentence."""
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=r"The folder .* cannot be used: .*LABSHOP_HOME"):
        Topology(tmp_path / folder).start()
    assert read_state(tmp_path / folder) is None


START_WITHOUT_RIGHTS = """
import os, sys
from pathlib import Path
from labshop.stack.nodes import find_server
from labshop.stack.topology import Topology

server = find_server(None)
if os.geteuid() == 0:
    os.seteuid(65_534)  # root may write everywhere, nobody may not
try:
    Topology(Path(sys.argv[1]), server).start()
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_home_without_the_right_to_write_is_refused(tmp_path: Path) -> None:
    """A folder that we may not write to gives a sentence."""
    tmp_path.chmod(0o500)
    said = subprocess.run(
        [sys.executable, "-c", START_WITHOUT_RIGHTS, str(tmp_path / "home")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout.startswith("SetupError"), said
    assert "cannot be used: Permission denied" in said.stdout


def test_a_half_failed_start_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the replica cannot start, the primary is stopped and the folder is free."""
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "replica").touch()
    primaries = _record_starts(monkeypatch)
    topology = Topology(tmp_path)
    with pytest.raises(SetupError, match="replica cannot be started"):
        topology.start()
    assert [node.exit_code for node in primaries] == [0, None]
    assert not is_held(tmp_path)


def test_an_interrupt_between_two_nodes_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ctrl-C when one node runs and the next one starts stops the first."""
    started = _record_starts(monkeypatch, interrupt_after=1)
    with pytest.raises(KeyboardInterrupt):
        Topology(tmp_path).start()
    assert [node.exit_code for node in started] == [0, None]
    assert not is_held(tmp_path)


def _record_starts(
    monkeypatch: pytest.MonkeyPatch, interrupt_after: int | None = None
) -> list[ServerNode]:
    """Note every node that is started; raise KeyboardInterrupt in place of one start."""
    started: list[ServerNode] = []
    start: Callable[[ServerNode], None] = ServerNode.start

    def recorded(node: ServerNode) -> None:
        started.append(node)
        if interrupt_after is not None and len(started) > interrupt_after:
            raise KeyboardInterrupt
        start(node)

    monkeypatch.setattr(ServerNode, "start", recorded)
    return started
