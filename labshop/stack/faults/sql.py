"""SQL that is away or slow: an SQLite file that another program holds.

The problem: SQLite is a file, not a server that could be stopped. The idea: a child process
takes the locks that a transaction needs, as another program would. It must be a child: such
locks belong to a process, and closing any descriptor of the file would drop the locks of the
connections that the own process has open.

PostgreSQL is a server behind a port: there the network's faults do.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labshop.stack.faults.children import acting

_HOLDER = Path(__file__).with_name("sqlite_holder.py")


@contextmanager
def sql_away(path: Path) -> Iterator[int]:
    """Let no transaction begin, neither to read nor to write.

    Each waits for its own timeout and fails with "database is locked". The fault begins once
    the transactions that are under way have ended, and harms nothing: at its end the first
    transaction rebuilds SQLite's index of the log, as after a crash.

    Args:
        path: an SQLite file in write-ahead mode.

    Returns:
        The process id of the child that holds it.

    Raises:
        FaultUnavailable: there is no such database, or a transaction does not end.
    """
    with acting(_holder("away", path)) as (child,):
        yield child


@contextmanager
def sql_slow(path: Path, delay_ms: int) -> Iterator[int]:
    """Let writers wait for another program's write, again and again.

    A lock of `delay_ms` follows on each commit of others, once the child has the processor. In
    between it gives way: until somebody writes, or `GIVE_WAY_S` is over (`sqlite_holder.py`).
    So a writer who comes in between is not delayed, and one who waits looks in steps of up to
    100 ms, as SQLite does. Readers do not wait.

    Args:
        path: an SQLite file in write-ahead mode.
        delay_ms: how long each lock is held.

    Returns:
        The process id of the child that holds it.

    Raises:
        FaultUnavailable: there is no such database, or a transaction does not end.
    """
    with acting([*_holder("slow", path), str(delay_ms)]) as (child,):
        yield child


def _holder(fault: str, path: Path) -> list[str]:
    return [sys.executable, "-I", "-S", str(_HOLDER), fault, str(path.absolute())]
