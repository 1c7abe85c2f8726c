"""The processor is burnt and memory is held by children, who end with the body."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from labshop.stack.faults import cpu_busy, machine, memory_taken
from labshop.stack.faults.errors import FaultUnavailable
from tests.conftest import need_in_ci

SUPERVISOR = """
import sys
from labshop.stack.faults import cpu_busy
with cpu_busy(2):
    print("ready", flush=True)
    sys.stdin.read()
"""


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def burnt_s() -> float:
    """Processor time of all children that have ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


def resident_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) >> 10


@pytest.fixture
def _linux() -> None:
    if not Path("/proc/meminfo").exists():
        need_in_ci("only Linux tells how much memory may be taken")


def test_children_burn_the_processor_and_end_with_the_body() -> None:
    """Two children spin while the body sleeps, and are gone after it."""
    before_s = burnt_s()
    with cpu_busy(2) as children:
        assert len(children) == 2
        # However much of the processor the tests' neighbours leave them.
        time.sleep(1.0)

    assert burnt_s() - before_s > 0.3
    assert all(is_gone(pid) for pid in children)


def test_by_default_every_core_is_busy() -> None:
    """There are as many children as cores."""
    with cpu_busy() as children:
        assert len(children) == os.cpu_count()


@pytest.mark.usefixtures("_linux")
def test_memory_is_really_held_and_given_back() -> None:
    """A child's resident memory is what was asked for, and no processor is burnt for it."""
    before_s = burnt_s()
    with memory_taken(96) as child:
        assert resident_mb(child) >= 96
        time.sleep(1.0)

    assert is_gone(child)
    assert burnt_s() - before_s < 0.3


@pytest.mark.usefixtures("_linux")
def test_memory_that_the_machine_needs_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would leave less than the margin is refused before a child is started."""
    monkeypatch.setattr(machine, "acting", lambda *_: pytest.fail("a child was started"))
    with pytest.raises(FaultUnavailable, match="512 MB must stay free"), memory_taken(10**6):
        pytest.fail("the body was entered")


@pytest.mark.usefixtures("_linux")
@pytest.mark.parametrize("fault", [lambda: cpu_busy(1), lambda: memory_taken(1)])
def test_an_interrupted_body_heals(
    fault: Callable[[], AbstractContextManager[list[int] | int]],
) -> None:
    """After a Ctrl-C in the body no child is left."""
    with pytest.raises(KeyboardInterrupt), fault() as children:
        raise KeyboardInterrupt

    assert all(is_gone(pid) for pid in (children if isinstance(children, list) else [children]))


def test_children_end_with_a_supervisor_that_is_killed(
    session_members: Callable[[int], set[int]],
    wait_until: Callable[[Callable[[], bool]], None],
) -> None:
    """After kill -9 of whoever burns the processor, nobody does."""
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        # The supervisor, the leash and the two children.
        assert len(session_members(process.pid)) == 4
    finally:
        process.kill()
        process.communicate()

    wait_until(lambda: session_members(process.pid) == set())
