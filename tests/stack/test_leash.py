"""Children never outlive their supervisor, whatever ends it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labshop.stack.home import State, is_held, read_state
from labshop.stack.leash import Leash
from labshop.stack.probe import answering_pid

SUPERVISOR = """
import subprocess, sys
from pathlib import Path
from labshop.stack.leash import Leash
from labshop.stack.topology import Topology

def start_without_leash(leash, command, output=None, env=None):
    return subprocess.Popen(command, stdout=output, stderr=output, env=env)

if sys.argv[2] == "unleashed":
    Leash.start = start_without_leash
with Topology(Path(sys.argv[1])) as topology:
    if sys.argv[2] == "frozen":
        topology["replica"].freeze()
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(kind: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(tmp_path / "home"), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", ["leashed", "frozen"])
def test_servers_end_with_a_supervisor_that_is_killed(
    kind: str,
    supervisor: Callable[[str], subprocess.Popen[bytes]],
    session_members: Callable[[int], set[int]],
    wait_until: Callable[[Callable[[], bool]], None],
    tmp_path: Path,
) -> None:
    """Servers, a frozen one too, end with a supervisor that got kill -9, and free its folder."""
    process = supervisor(kind)
    # The supervisor, its leash, the primary and the replica.
    assert len(session_members(process.pid)) == 4

    process.kill()
    process.wait()

    wait_until(lambda: session_members(process.pid) == set())
    assert not is_held(tmp_path / "home")


def test_control_without_the_leash_servers_survive(
    supervisor: Callable[[str], subprocess.Popen[bytes]],
    end_strays: list[int],
    wait_until: Callable[[Callable[[], bool]], None],
    tmp_path: Path,
) -> None:
    """Servers that were started outside of the leash outlive their killed supervisor."""
    process = supervisor("unleashed")
    state = read_state(tmp_path / "home")
    assert isinstance(state, State)
    end_strays += [node.pid for node in state.nodes]

    process.kill()
    process.wait()

    wait_until(lambda: not is_held(tmp_path / "home"))
    for node in state.nodes:
        assert answering_pid(int(node.url.rpartition(":")[2])) == node.pid


def test_the_leash_ends_a_member_that_will_not(tmp_path: Path) -> None:
    """When end returns, a member that ignores SIGTERM is gone too."""
    stubborn = "import signal; signal.signal(15, signal.SIG_IGN); print('up'); signal.pause()"
    output = tmp_path / "output"
    with Leash() as leash, output.open("wb") as written:
        member = leash.start([sys.executable, "-u", "-c", stubborn], written)
        while output.read_bytes() != b"up\n":
            assert member.poll() is None
    assert member.wait(0.5) == -signal.SIGKILL


def test_the_leash_outlives_signals_to_its_group() -> None:
    """A signal that ends the members leaves the leash in place for the next ones."""
    sleeper = [sys.executable, "-c", "import signal; signal.pause()"]
    with Leash() as leash:
        first = leash.start(sleeper)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            os.killpg(leash.group, number)
        assert first.wait(5.0) < 0
        second = leash.start(sleeper)
        assert os.getpgid(second.pid) == leash.group
    assert second.wait(0.5) < 0
    leash.end()
