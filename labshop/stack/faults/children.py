"""Faults that are made by other processes: children that say when they act.

The problem: a program that was started does nothing yet, and one that outlives its test goes on
hurting. The idea: each child prints one word once it acts, and is held on a leash of its own,
which ends it however the test ends.
"""

import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from labshop.stack.faults.errors import FaultUnavailable
from labshop.stack.leash import Leash

ACTS = b"acts"
"""The line that a child prints once it acts; any other line is why it cannot."""

START_DEADLINE_S = 20.0


@contextmanager
def acting(command: Sequence[str], count: int = 1) -> Iterator[list[int]]:
    """Have children at work for the length of a body.

    Args:
        command: one child's program and arguments.
        count: how many.

    Returns:
        The children's process ids, once each acts.

    Raises:
        FaultUnavailable: one cannot act, or does not within `START_DEADLINE_S`.
    """
    children: list[subprocess.Popen[bytes]] = []
    reading, writing = os.pipe()
    try:
        with open(reading, "rb") as said, Leash() as leash:  # noqa: PTH123  # a pipe has no path
            with open(writing, "wb") as output:  # noqa: PTH123  # the same
                for _ in range(count):
                    children.append(leash.start(command, output))  # noqa: PERF401  # kept one by one
            _wait_until_all_act(said.fileno(), count)
            yield [child.pid for child in children]
    finally:
        for child in children:
            child.wait()


def _wait_until_all_act(said: int, count: int) -> None:
    heard = b""
    deadline_s = time.monotonic() + START_DEADLINE_S
    while (lines := heard.split(b"\n")[:-1]).count(ACTS) < count:
        refusals = [line for line in lines if line != ACTS]
        if refusals:
            raise FaultUnavailable(refusals[0].decode(errors="replace"))
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not select.select([said], [], [], left_s)[0]:
            raise FaultUnavailable(f"The fault did not begin within {START_DEADLINE_S:.0f} s.")
        chunk = os.read(said, 4_096)
        if not chunk:
            raise FaultUnavailable("The program that makes the fault ended at its start.")
        heard += chunk
