"""Processes that crash, hang, and lose what was not on disk.

The problem: `kill -9` is a mild end. What a server has written is safe with the system, though
no fsync has brought it to disk; only a power loss takes it back, and nobody pulls the plug of a
shared machine. The idea: kill the server, then cut from its append-only file what the disk need
not have had. The server notes the time in that file (``aof-timestamp-enabled``), so the cut is
at a command's border, and the same in each run.

It does not promise what a disk that lies about its fsync loses, nor anything when two threads
hurt the same process at once. See
https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/.
"""

import mmap
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from labshop.stack.nodes import ServerNode
from labshop.stack.ports import LOOPBACK
from labshop.stack.probe import redis_info

AT_RISK_S = {"always": 0, "everysec": 1, "no": 30}
"""The worst that each ``appendfsync`` allows: what is that young, no fsync need have seen.

With ``no`` the system decides; Linux writes back after 30 s."""

_ASK_TIMEOUT_S = 0.5
_TIMESTAMP = re.compile(rb"(?:^|(?<=\r\n))#TS:(\d+)\r\n")


class Process(Protocol):
    """What can crash and hang: a node, or the shop's API."""

    @property
    def alive(self) -> bool:
        """Whether it exists."""

    def kill(self) -> None:
        """End it at once."""

    def restart(self) -> None:
        """Bring it back, and return when it serves."""

    def freeze(self) -> None:
        """Suspend it."""

    def thaw(self) -> None:
        """Let it go on."""


Hurt = TypeVar("Hurt", bound=Process)


@contextmanager
def frozen(process: Hurt) -> Iterator[Hurt]:
    """Let a process hang by SIGSTOP: it keeps its connections and answers nothing.

    Thawed, it carries out what was sent meanwhile: a timeout is indefinite.
    """
    try:
        process.freeze()
        yield process
    finally:
        process.thaw()


@contextmanager
def killed(process: Hurt) -> Iterator[Hurt]:
    """Let a process be dead by SIGKILL; at the end it is started again, unless the body did."""
    with _down(process):
        yield process


@contextmanager
def power_lost(node: ServerNode) -> Iterator[ServerNode]:
    """Let a node's power fail; at the end it starts with what its disk must have had.

    The worst case that its ``appendfsync`` allows: with ``everysec``, what was written within
    the last second is lost, and what is two seconds old is kept; with ``always`` nothing is
    lost; with ``no``, the last 30 s. A node that cannot be asked counts as ``everysec``.

    All time is the node's own. While its clock is behind a time that it saw before, it brings
    nothing to disk; whatever it noted under a later time than its clock shows is lost, also
    where that had been brought to disk before the clock was set back.
    """
    kept_until_s = _sure_to_be_on_disk(node)
    with _down(node):
        if kept_until_s is not None:
            _cut(node.folder / "appendonlydir", kept_until_s)
        yield node


@contextmanager
def emptied(node: ServerNode) -> Iterator[ServerNode]:
    """Let a node lose its disk; at the end it starts as one that never held anything."""
    with _down(node):
        shutil.rmtree(node.folder / "appendonlydir")
        yield node


@contextmanager
def _down(process: Process) -> Iterator[None]:
    try:
        process.kill()
        yield
    finally:
        if not process.alive:
            process.restart()


def _sure_to_be_on_disk(node: ServerNode) -> float | None:
    """Up to when, by the node's own clock, all that it wrote is on disk; None is for ever."""
    try:
        policy = _sync_policy(node.port)
        now_s = int(redis_info(node.port, "server")["server_time_usec"]) / 1_000_000
    except OSError:
        policy, now_s = "everysec", time.time()
    at_risk_s = AT_RISK_S[policy]
    # A time in the file stands for the whole second that begins there.
    return now_s - at_risk_s - 1 if at_risk_s else None


def _sync_policy(port: int) -> str:
    with socket.create_connection((LOOPBACK, port), timeout=_ASK_TIMEOUT_S) as connection:
        connection.sendall(b"CONFIG GET appendfsync\r\n")
        with connection.makefile("rb") as reply:
            # The reply's length, then two strings, each after its own length.
            return [reply.readline() for _ in range(5)][-1].decode().strip()


def _cut(folder: Path, kept_until_s: float) -> None:
    """Cut an append-only file of several parts where its young end begins.

    Its base was on disk before it counted. Where that is young itself, so is all that follows.
    """
    bases, increments = _parts(folder, "b"), _parts(folder, "i")
    lost = any(_start_of_young(base, kept_until_s) == 0 for base in bases)
    for increment in increments:
        start = 0 if lost else _start_of_young(increment, kept_until_s)
        if start is not None:
            lost = True
            os.truncate(increment, start)


def _parts(folder: Path, kind: str) -> list[Path]:
    """The files of one kind that the manifest names, in order."""
    lines = (folder / "appendonly.aof.manifest").read_text(encoding="utf-8").splitlines()
    entries = (line.split() for line in lines)
    return [folder / entry[1] for entry in entries if entry[-2:] == ["type", kind]]


def _start_of_young(part: Path, kept_until_s: float) -> int | None:
    """Where in a file the commands begin that are younger than a time, to its end, if any are."""
    if part.stat().st_size == 0:
        return None
    start = None
    with (
        part.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        for noted in _TIMESTAMP.finditer(content):
            if int(noted[1]) <= kept_until_s:
                start = None
            elif start is None:
                start = noted.start()
    return start
