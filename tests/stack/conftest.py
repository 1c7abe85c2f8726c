"""What the tests of the stack share: servers, a terminal, a census of processes."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stack.terminal import DEADLINE_S, Terminal


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


@pytest.fixture(params=["packaged", "redis-server"])
def server(request: pytest.FixtureRequest) -> Path | None:
    """Each server that the lab supports, as the setting that names it."""
    return None if request.param == "packaged" else _installed_redis()


@pytest.fixture
def redis_server() -> Path:
    """The machine's own Redis."""
    return _installed_redis()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Wait for an event, with a deadline."""

    def wait(happened: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not happened():
            assert time.monotonic() < deadline_s, "the event did not come"
            time.sleep(0.01)

    return wait


@pytest.fixture
def session_members() -> Callable[[int], set[int]]:
    """List the living processes of one session, which a start_new_session began."""
    return _linux_session_members if Path("/proc/self/stat").exists() else _ps_session_members


@pytest.fixture
def fake_server(tmp_path: Path) -> Callable[[str], Path]:
    """Make a program that takes a server's place and runs a line of shell."""

    def make(line: str) -> Path:
        path = tmp_path / "fake-server"
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def end_strays() -> Iterator[list[int]]:
    """Collect the ids of processes that a control leaves behind, and end them."""
    strays: list[int] = []
    yield strays
    for pid in strays:
        os.kill(pid, signal.SIGKILL)


def _installed_redis() -> Path:
    found = shutil.which("redis-server")
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("CI tests both servers, and redis-server is not installed there")
    if found is None:
        pytest.skip("redis-server is not installed, so only the packaged Valkey is tested")
    return Path(found)


def _linux_session_members(session: int) -> set[int]:
    members = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                stat = (folder / "stat").read_text(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            state, _parent, _group, owner = stat.rpartition(")")[2].split()[:4]
            if int(owner) == session and state != "Z":
                members.add(int(folder.name))
    return members


def _ps_session_members(session: int) -> set[int]:
    listing = subprocess.run(
        ["ps", "-axo", "pid=,stat="], capture_output=True, text=True, check=True
    )
    members = set()
    for line in listing.stdout.splitlines():
        pid, state = line.split()[:2]
        try:
            if os.getsid(int(pid)) == session and "Z" not in state:
                members.add(int(pid))
        except (ProcessLookupError, PermissionError):
            continue
    return members
