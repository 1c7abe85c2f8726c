"""One node's clock is wrong, live, while all others are right."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from labshop.stack.faults import NodeClock, clock_drifting, clock_offset, shimmed
from labshop.stack.faults.errors import FaultUnavailable
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from labshop.stack.probe import ask_redis, redis_info
from tests.conftest import need_in_ci

PATIENCE_S = 10.0
NODE = NodeSpec("primary", "primary")
WaitUntil = Callable[[Callable[[], bool]], None]
MakeNode = Callable[[dict[str, str]], ServerNode]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What a process needs so that its clock can be moved."""
    try:
        return shimmed(tmp_path / "primary")
    except FaultUnavailable as sentence:
        need_in_ci(str(sentence))
        raise


@pytest.fixture
def make_node(server: Path | None, leash: Leash, tmp_path: Path) -> Iterator[MakeNode]:
    made: list[ServerNode] = []

    def make(environment: dict[str, str]) -> ServerNode:
        node = ServerNode(NODE, find_server(server), tmp_path / "primary", leash, env=environment)
        made.append(node)
        node.start()
        return node

    yield make
    for node in made:
        node.kill()


@pytest.fixture
def node(environment: dict[str, str], make_node: MakeNode) -> ServerNode:
    """A node of this test's own, of each kind of server, whose clock can be moved."""
    return make_node(environment)


def ask(node: ServerNode, command: str) -> str:
    return ask_redis(node.port, command, timeout_s=PATIENCE_S)


def offset_s(node: ServerNode) -> tuple[float, float]:
    """How far a node's clock is off, by its own answer: at least, and at most."""
    before_s = time.time()
    said_s = int(redis_info(node.port, "server", PATIENCE_S)["server_time_usec"]) / 1e6
    return said_s - time.time(), said_s - before_s


def is_off_by(node: ServerNode, expected_s: float) -> bool:
    least, most = offset_s(node)
    # A server may answer by a time that it has read some milliseconds ago.
    return least - 0.1 <= expected_s <= most + 0.1


@pytest.mark.parametrize("offset_ms", [29_000, -60_000])
def test_a_clock_jumps_and_jumps_back(
    offset_ms: int, node: ServerNode, valkey: ServerNode, wait_until: WaitUntil
) -> None:
    """The node says the wrong time in the body alone; its neighbour says the true one."""
    wait_until(lambda: is_off_by(node, 0))
    with clock_offset(node, offset_ms) as clock:
        wait_until(lambda: is_off_by(node, offset_ms / 1_000))
        assert clock.offset_ms == offset_ms
        assert is_off_by(valkey, 0)

    wait_until(lambda: is_off_by(node, 0))
    assert clock.offset_ms == 0


def test_a_lock_ends_early_when_the_clock_jumps(node: ServerNode, wait_until: WaitUntil) -> None:
    """A lock of 30 s is there, and gone within moments of a jump by 30 s."""
    began_s = time.monotonic()
    assert ask(node, "SET lock mine NX PX 30000") == "+OK"
    assert ask(node, "SET lock theirs NX PX 30000") == "$-1"
    with clock_offset(node, 30_000):
        wait_until(lambda: ask(node, "SET lock theirs NX PX 30000") == "+OK")

    assert time.monotonic() - began_s < 25


def test_a_lock_lives_longer_when_the_clock_is_set_back(
    node: ServerNode, wait_until: WaitUntil
) -> None:
    """A minute back adds a minute to a lock of 2 s."""
    assert ask(node, "SET lock mine NX PX 2000") == "+OK"
    with clock_offset(node, -60_000):
        wait_until(lambda: int(ask(node, "PTTL lock").lstrip(":")) > 50_000)


def test_a_clock_runs_twice_as_fast(node: ServerNode, wait_until: WaitUntil) -> None:
    """Over a real second, two seconds pass on the node; afterwards, one does."""
    with clock_drifting(node, ppm=1_000_000) as clock:
        assert pace_contains(node, 2.0)
        assert clock.offset_ms >= 1_000

    wait_until(lambda: is_off_by(node, 0))
    assert pace_contains(node, 1.0)


def pace_contains(node: ServerNode, expected: float) -> bool:
    """Whether a node's seconds per true second, measured over one, are what is expected."""
    first_least, first_most = offset_s(node)
    began_s = time.monotonic()
    time.sleep(1.0)
    gone_s = time.monotonic() - began_s
    last_least, last_most = offset_s(node)
    gone_at_most_s = time.monotonic() - began_s + (first_most - first_least)
    # The true second is known as exactly as the questions were answered quickly.
    least = 1 + (last_least - first_most) / gone_at_most_s
    most = 1 + (last_most - first_least) / gone_s
    return least - 0.05 <= expected <= most + 0.05


def test_a_clock_is_set_live_without_jumps_of_its_own(environment: dict[str, str]) -> None:
    """An end of drift keeps what was drifted, and a jump keeps the drift."""
    clock = NodeClock(NeverStarted(environment))
    clock.drift_ppm = 1_000_000
    time.sleep(0.05)
    clock.drift_ppm = 0
    drifted_ms = clock.offset_ms
    assert drifted_ms >= 50
    clock.drift_ppm = -500_000
    clock.offset_ms = 7_000
    assert clock.drift_ppm == -500_000
    assert clock.offset_ms <= 7_000
    clock.set_true()
    assert (clock.offset_ms, clock.drift_ppm) == (0, 0)


class NeverStarted:
    """Stands for a process whose page is there already."""

    pid = None

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment


def test_a_restarted_node_keeps_its_wrong_clock(node: ServerNode, wait_until: WaitUntil) -> None:
    """The fault is the machine's, not the process': it lasts until the body's end."""
    with clock_offset(node, 29_000):
        node.kill()
        node.restart()
        wait_until(lambda: is_off_by(node, 29))

    wait_until(lambda: is_off_by(node, 0))


@pytest.mark.parametrize(
    "fault",
    [lambda node: clock_offset(node, 29_000), lambda node: clock_drifting(node, ppm=1_000_000)],
)
def test_an_interrupted_body_heals(
    fault: Callable[[ServerNode], AbstractContextManager[NodeClock]],
    node: ServerNode,
    wait_until: WaitUntil,
) -> None:
    """After a Ctrl-C in the body the node's clock is true."""

    def be_interrupted() -> None:
        wait_until(lambda: not is_off_by(node, 0))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), fault(node):
        be_interrupted()

    wait_until(lambda: is_off_by(node, 0))


def test_a_node_that_was_started_without_the_shim_refuses(
    environment: dict[str, str], make_node: MakeNode
) -> None:
    """The fault names what is missing, and does not pretend."""
    node = make_node({})
    with pytest.raises(FaultUnavailable, match="not started to be hurt"), clock_offset(node, 1):
        pytest.fail("the body was entered")


def test_a_node_that_has_not_loaded_the_shim_refuses(
    environment: dict[str, str], make_node: MakeNode
) -> None:
    """A page that nobody obeys is noticed."""
    node = make_node({"LABSHOP_FAULT_PAGE": environment["LABSHOP_FAULT_PAGE"]})
    with pytest.raises(FaultUnavailable, match="has not loaded"), clock_offset(node, 1):
        pytest.fail("the body was entered")


def test_without_a_compiler_the_sentence_says_what_to_install(
    tmp_path: Path, valkey: ServerNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without `cc`, and one that is no Linux, refuse in one sentence."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(FaultUnavailable, match="install a C compiler"):
        shimmed(tmp_path / "node")
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(FaultUnavailable, match="on Linux only"), clock_offset(valkey, 1):
        pytest.fail("the body was entered")
    assert not (tmp_path / "node").exists()


def test_it_is_compiled_once_however_many_ask(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four at once get one library, and leave nothing else behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    libraries = []
    threads = [
        threading.Thread(
            target=lambda name: libraries.append(shimmed(tmp_path / name)["LD_PRELOAD"]),
            args=(f"node-{number}",),
        )
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    [library] = {name.split(":")[0] for name in libraries}
    assert len(libraries) == 4
    assert list(Path(library).parent.iterdir()) == [Path(library)]


def test_code_is_not_loaded_from_where_others_may_write(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the right name that everybody may write to is refused."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shimmed(tmp_path / "node")
    [folder] = tmp_path.glob("labshop-*")
    folder.chmod(0o777)
    with pytest.raises(FaultUnavailable, match="must be yours alone"):
        shimmed(tmp_path / "node")
