"""The commands start all, end all, and fail in one sentence."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx2 as httpx
import pytest

from labshop.stack.home import is_held, read_state
from labshop.stack.probe import answering_pid, http_get
from tests.stack.terminal import Terminal

Members = Callable[[int], set[int]]
Wait = Callable[[Callable[[], bool]], None]


def test_up_detached_status_and_down(
    terminal: Terminal, session_members: Members, wait_until: Wait
) -> None:
    """The lab starts in the background, says where it is, and ends without a trace."""
    up = terminal.run("up", "--detach")
    assert (up.returncode, up.stderr) == (0, "")
    state = terminal.state()
    assert state.api_url is not None
    assert f"Docs  {state.api_url}/docs" in up.stdout
    assert http_get(f"{state.api_url}/healthz")[0] == 200

    status = terminal.run("status")
    assert status.returncode == 0
    for node in state.nodes:
        assert f"alive  {node.pid}" in status.stdout
        assert node.url in status.stdout
    assert f"API   {state.api_url}  ready" in status.stdout

    down = terminal.run("down")
    assert down.stdout == f"The lab has ended (it was process {state.supervisor_pid}).\n"
    assert read_state(terminal.home) is None
    # The supervisor frees the folder as the last thing that it does before it ends.
    wait_until(lambda: session_members(state.supervisor_pid) == set())


def test_nothing_runs(terminal: Terminal) -> None:
    """Without a lab, status says so with exit code 3, and down with 0."""
    status = terminal.run("status")
    assert (status.returncode, status.stderr) == (3, "")
    assert "not running" in status.stdout
    down = terminal.run("down")
    assert (down.returncode, down.stderr) == (0, "")
    assert "not running" in down.stdout


@pytest.mark.parametrize("arguments", [("up",), ("up", "--detach")])
def test_a_second_lab_is_refused(terminal: Terminal, arguments: tuple[str, ...]) -> None:
    """A second start, also in the background, gets one sentence, and the first one goes on."""
    assert terminal.run("up", "--detach").returncode == 0
    pid = terminal.state().supervisor_pid
    second = terminal.run(*arguments)
    assert_refused(second, f"The lab is already running here (process {pid}).")
    assert terminal.state().supervisor_pid == pid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_running_lab(
    number: signal.Signals, terminal: Terminal, session_members: Members
) -> None:
    """Ctrl-C, SIGTERM and a closed terminal end all in order."""
    up = terminal.start("up")
    read_until(up.stdout, "Stop it by")
    assert len(session_members(up.pid)) == 10  # seven servers, their leash, the API, itself
    up.send_signal(number)
    assert up.wait(20) == 0
    assert session_members(up.pid) == set()
    assert up.stdout is not None
    assert up.stdout.read().endswith("The lab has ended.\n")


def test_an_interrupt_while_a_node_starts(
    terminal: Terminal,
    session_members: Members,
    wait_until: Wait,
    fake_server: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """A Ctrl-C while the lab waits for a node that never answers leaves no process."""
    begun = tmp_path / "begun"
    server = fake_server(f"touch {begun}; exec sleep 600")
    up = terminal.start("up", LABSHOP_REDIS_SERVER=str(server))
    wait_until(begun.exists)
    up.send_signal(signal.SIGINT)
    up.wait(20)
    assert session_members(up.pid) == set()
    assert not is_held(terminal.home)


def test_an_interrupt_while_the_api_starts(
    terminal: Terminal, session_members: Members, wait_until: Wait
) -> None:
    """A Ctrl-C while the lab waits for an API that never answers leaves no process."""
    up = terminal.start("up", LABSHOP_STRATEGY="hanging:Purchase")
    log = terminal.home / "api.log"
    wait_until(lambda: log.exists() and "hanging" in log.read_text())
    up.send_signal(signal.SIGINT)
    up.wait(20)
    assert session_members(up.pid) == set()
    assert not is_held(terminal.home)


def test_a_killed_supervisor_takes_the_api_with_it(
    terminal: Terminal, session_members: Members, wait_until: Wait
) -> None:
    """After kill -9 no process is left, and status says that nothing runs."""
    assert terminal.run("up", "--detach").returncode == 0
    pid = terminal.state().supervisor_pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: session_members(pid) == set())
    assert terminal.run("status").returncode == 3


def test_a_child_that_dies_is_reported_and_the_lab_goes_on(terminal: Terminal) -> None:
    """A killed node and a killed API are one line each; status shows them, and the rest runs."""
    up = terminal.start("up")
    read_until(up.stdout, "Stop it by")
    replica = terminal.state().nodes[1]
    os.kill(replica.pid, signal.SIGKILL)
    said = read_until(up.stdout, "replica")
    assert said == f"replica (process {replica.pid}) ended by SIGKILL.\n"
    status = terminal.run("status")
    assert status.returncode == 0
    assert f"dead   {replica.pid}" in status.stdout
    primary = terminal.state().nodes[0]
    assert answering_pid(int(primary.url.rpartition(":")[2])) == primary.pid


@contextmanager
def taken_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as grabber:
        yield str(grabber.getsockname()[1])


def test_a_taken_port_is_refused(terminal: Terminal) -> None:
    """An explicit port that is taken gives one sentence, from up and from serve."""
    with taken_port() as port:
        sentence = f"Port {port} is taken by another program"
        assert_refused(terminal.run("up", LABSHOP_API_PORT=port), sentence)
        gate = {"LABSHOP_GATE_URL": "redis://127.0.0.1:1"}
        assert_refused(terminal.run("serve", "--port", port, **gate), sentence)
    assert not is_held(terminal.home)


@pytest.mark.parametrize("command", ["up", "status", "serve", "lab", "doctor"])
def test_a_wrong_setting_is_refused(command: str, terminal: Terminal) -> None:
    """A setting that is no number gives one sentence with its name."""
    answer = terminal.run(command, LABSHOP_API_PORT="abc")
    assert_refused(answer, "A setting is not usable. LABSHOP_API_PORT:")


@pytest.mark.parametrize("arguments", [("up",), ("up", "--detach")])
def test_an_unusable_folder_is_refused(terminal: Terminal, arguments: tuple[str, ...]) -> None:
    """A home folder below a file gives one sentence."""
    terminal.home.touch()
    answer = terminal.run(*arguments, LABSHOP_HOME=str(terminal.home / "below"))
    assert_refused(answer, "cannot be used: Not a directory.")


@pytest.mark.parametrize("arguments", [("up",), ("up", "--detach")])
def test_an_api_that_dies_is_quoted(terminal: Terminal, arguments: tuple[str, ...]) -> None:
    """An API that ends at its start gives its last line, and stops the nodes."""
    answer = terminal.run(*arguments, LABSHOP_JWT_SECRET="too short")
    assert_refused(answer, "The API ended at its start: LABSHOP_JWT_SECRET is too short")
    assert not is_held(terminal.home)


def test_reset_gives_the_next_group_a_new_shop(terminal: Terminal) -> None:
    """Reset ends the lab and forgets its accounts; a token of the last group is worth nothing."""
    ada = {"name": "ada", "password": "correct horse"}
    assert terminal.run("up", "--detach").returncode == 0
    assert sign_up(terminal, ada) == 201
    assert sign_up(terminal, ada) == 409

    token = call(terminal, "/auth/login", ada).json()["access_token"]

    assert terminal.run("reset").returncode == 0
    assert read_state(terminal.home) is None
    assert terminal.run("up", "--detach").returncode == 0

    assert sign_up(terminal, {"name": "bob", "password": "correct horse"}) == 201
    url = f"{terminal.state().api_url}/orders"
    assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_reset_leaves_a_database_of_somebody_elses_alone(terminal: Terminal) -> None:
    """A ledger that a URL names is not the lab's to empty."""
    answer = terminal.run("reset", LABSHOP_DATABASE_URL="sqlite:////tmp/not-ours.db")
    assert_refused(answer, "The ledger is at LABSHOP_DATABASE_URL")


def sign_up(terminal: Terminal, credentials: dict[str, str]) -> int:
    return call(terminal, "/auth/signup", credentials).status_code


def call(terminal: Terminal, path: str, credentials: dict[str, str]) -> httpx.Response:
    return httpx.post(f"{terminal.state().api_url}{path}", json=credentials, timeout=10)


def test_a_missing_server_is_refused(terminal: Terminal) -> None:
    """A server that is not there, and a profile that is not, give one sentence each."""
    answer = terminal.run("up", LABSHOP_REDIS_SERVER="/no/such/server")
    assert_refused(answer, "LABSHOP_REDIS_SERVER names /no/such/server")
    assert_refused(terminal.run("up", "--profile", "nine"), "There is no profile 'nine'")


def test_serve_needs_a_gate(terminal: Terminal) -> None:
    """Without a running lab and without a URL, serve says how to get one."""
    assert_refused(terminal.run("serve"), "No Redis is running here. Start the lab by `labshop up`")


def test_serve_joins_the_running_lab(terminal: Terminal) -> None:
    """A second API takes the gate from the state, and a port of its own."""
    assert terminal.run("up", "--detach").returncode == 0
    serve = terminal.start("serve")
    said = read_until(serve.stdout, "Serving")
    assert terminal.state().url_of("primary") in said.split()


def test_doctor_tells_required_from_optional(terminal: Terminal) -> None:
    """What is optional may be missing; what is required may not."""
    healthy = terminal.run("doctor", PATH="")
    assert healthy.returncode == 0
    assert "✓ Redis server: Valkey" in healthy.stdout
    assert "\N{EN DASH} redis-server: missing" in healthy.stdout
    ill = terminal.run("doctor", LABSHOP_REDIS_SERVER="/no/such/server")
    assert ill.returncode == 1
    assert "✗ Redis server: missing" in ill.stdout
    terminal.home.touch()
    unwritable = terminal.run("doctor")
    assert unwritable.returncode == 1
    assert f"✗ folder {terminal.home}: not writable" in unwritable.stdout


def assert_refused(answer: subprocess.CompletedProcess[str], sentence: str) -> None:
    """Check for exit code 1 and one line on standard error, without a traceback."""
    assert answer.returncode == 1
    assert sentence in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def read_until(output: IO[str] | None, word: str) -> str:
    """Return the first line that contains a word; fail when the output ends before."""
    assert output is not None
    line = next((line for line in output if word in line), None)
    assert line is not None, f"{word!r} was never said"
    return line
