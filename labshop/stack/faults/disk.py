"""A disk without room, for one process.

The problem: filling a disk hurts everybody on the machine, and takes root to do by a small disk
of one's own. The idea: the process' calls that write pass through our shim, which answers
ENOSPC while the fault lasts.

What is modelled: each write to a regular file fails whole, and leaves the file as it was. A real
disk may still take a part of a write, or one that overwrites what is there. What the process
prints reaches its log, and what its forked children write through C's stdio (a rewrite of the
append-only file) is not hindered.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from labshop.stack.faults.shim import Shimmed, page_of

Hurt = TypeVar("Hurt", bound=Shimmed)


@contextmanager
def disk_full(process: Hurt) -> Iterator[Hurt]:
    """Leave a node, or the shop's API, no room on its disk.

    A node with ``appendfsync everysec`` acknowledges what it takes before its first failed
    write of the file, then refuses further writes by MISCONF and goes on reading; once there is
    room, it writes what it holds and takes writes again within about a second. With ``always``
    it ends itself at its first failed write, rather than acknowledge what is not on disk. The
    API's SQLite refuses the commit ("database or disk is full").

    Args:
        process: was started with ``env=shimmed(folder)``.

    Raises:
        FaultUnavailable: the process' disk cannot be filled.
    """
    page = page_of(process)
    try:
        page.disk_full = 1
        yield process
    finally:
        page.disk_full = 0
