"""Clocks that are wrong: of one node, while it runs.

The problem: a lock with a time to live is as good as the clocks that measure it, and those jump
(an administrator, a virtual machine that wakes) and drift (a crystal; NTP corrects by hundreds
of millionths). The idea: the node asks our shim for the time; its true clock, an offset and a
drift make the answer, and all three can be changed while it runs.

Only the wall clock is wrong: `CLOCK_MONOTONIC` never jumps on a real machine either. The
machine's other processes keep the true time.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from labshop.stack.faults.shim import Line, Shimmed, page_of

_NS_PER_MS = 1_000_000


class NodeClock:
    """The clock of one running process, to be set at any moment.

    Args:
        node: was started with ``env=shimmed(folder)``.

    Raises:
        FaultUnavailable: it was not, or this machine cannot do it.
    """

    def __init__(self, node: Shimmed) -> None:
        self._page = page_of(node)

    @property
    def offset_ms(self) -> int:
        """How far it is ahead of true time, what it has drifted included; setting it is a jump."""
        return self._offset_ns() // _NS_PER_MS

    @offset_ms.setter
    def offset_ms(self, offset_ms: int) -> None:
        self._set(offset_ms * _NS_PER_MS, self.drift_ppm)

    @property
    def drift_ppm(self) -> int:
        """How much faster than true time it runs, in millionths; setting it makes no jump."""
        return self._line.drift_ppm

    @drift_ppm.setter
    def drift_ppm(self, drift_ppm: int) -> None:
        self._set(self._offset_ns(), drift_ppm)

    def set_true(self) -> None:
        """Set it to true time, at which it stays."""
        self._set(0, 0)

    @property
    def _line(self) -> Line:
        return self._page.lines[self._page.current]

    def _offset_ns(self) -> int:
        elapsed_ns = time.monotonic_ns() - self._line.since_ns
        return self._line.offset_ns + elapsed_ns * self._line.drift_ppm // 1_000_000

    def _set(self, offset_ns: int, drift_ppm: int) -> None:
        # The process reads at any moment: it never sees half a line, as the other one counts.
        spare = 1 - self._page.current
        self._page.lines[spare] = Line(offset_ns, drift_ppm, time.monotonic_ns())
        self._page.current = spare


@contextmanager
def clock_offset(node: Shimmed, offset_ms: int) -> Iterator[NodeClock]:
    """Let a node's clock jump by an offset; at the end it jumps back to true time.

    Args:
        node: was started with ``env=shimmed(folder)``.
        offset_ms: positive is ahead of true time: what expires there expires early.

    Returns:
        The clock, which the body may set again.

    Raises:
        FaultUnavailable: the node's clock cannot be moved.
    """
    clock = NodeClock(node)
    try:
        clock.offset_ms = offset_ms
        yield clock
    finally:
        clock.set_true()


@contextmanager
def clock_drifting(node: Shimmed, *, ppm: int) -> Iterator[NodeClock]:
    """Let a node's clock run too fast or too slow; at the end it jumps back to true time.

    Args:
        node: was started with ``env=shimmed(folder)``.
        ppm: millionths; 1 000 000 is twice as fast, -500 000 half as fast.

    Returns:
        The clock; its `offset_ms` tells how far it has come.

    Raises:
        FaultUnavailable: the node's clock cannot be moved.
    """
    clock = NodeClock(node)
    try:
        clock.drift_ppm = ppm
        yield clock
    finally:
        clock.set_true()
