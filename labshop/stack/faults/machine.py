"""A machine that has no time or no memory left.

The problem: an overloaded machine keeps all its promises, only late. The idea: children of the
lab burn the processor or hold memory, and end with the body.

It does not promise by how much all else is slowed: the system shares the processor out fairly.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from labshop.stack.faults.children import acting
from labshop.stack.faults.errors import FaultUnavailable

KEPT_FREE_MB = 512
"""Memory that is left to the machine, whatever is asked for."""

_BURN = """
print("acts", flush=True)
while True:
    pass
"""

# Filled with ones: the system gives a page of zeros only when somebody writes to it. Should
# memory run out all the same, the system's choice falls on this child first.
_HOLD_MEMORY = """
import contextlib, pathlib, signal, sys
with contextlib.suppress(OSError):
    pathlib.Path("/proc/self/oom_score_adj").write_text("1000")
held = bytearray(b"\\1") * (int(sys.argv[1]) << 20)
print("acts", flush=True)
signal.pause()
"""


@contextmanager
def cpu_busy(processes: int | None = None) -> Iterator[list[int]]:
    """Burn the processor.

    Args:
        processes: how many children spin; None is one per core.

    Returns:
        The children's process ids, once each of them spins.
    """
    with acting(_python(_BURN), processes or os.cpu_count() or 1) as children:
        yield children


@contextmanager
def memory_taken(mb: int) -> Iterator[int]:
    """Take memory away from the machine.

    Args:
        mb: how much, in mebibytes.

    Returns:
        The process id of the child that holds it, once it really does.

    Raises:
        FaultUnavailable: less than `KEPT_FREE_MB` would be left, or nobody can tell.
    """
    available_mb = _available_mb()
    if available_mb - mb < KEPT_FREE_MB:
        raise FaultUnavailable(
            f"Of {available_mb} MB that are free, {mb} MB cannot be taken: "
            f"{KEPT_FREE_MB} MB must stay free."
        )
    with acting([*_python(_HOLD_MEMORY), str(mb)]) as (child,):
        yield child


def _python(source: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", source]


def _available_mb() -> int:
    """What the system would give without swapping, and the container allows."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        raise FaultUnavailable("Only Linux tells how much memory may be taken.") from None
    fields = dict(line.split(":", 1) for line in lines)
    available_bytes = int(fields["MemAvailable"].split()[0]) << 10
    group = Path("/sys/fs/cgroup")
    # Without a limit there is no such file, or it says "max".
    with suppress(OSError, ValueError):
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        available_bytes = min(available_bytes, limit - used)
    return available_bytes >> 20
