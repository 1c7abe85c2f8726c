"""One way of one connection: what a fault does to a stream of bytes.

The problem: a fault must hurt a stream as a network does, or it teaches what is not so. TCP may
deliver late, or break, but it never loses bytes out of the middle. The idea: what came in waits
in a queue, and leaves it in order. A fault decides only when the head of the queue may leave, or
that nothing enters any more; a way that has lost something ends in a reset, never in a gap.

It does not know packets: what is delayed or dropped is what one reading of a socket brought.
"""

import asyncio
import math
from collections import deque
from enum import Enum
from typing import Protocol

from labshop.stack.faults.conditions import Conditions, Tally, Way

QUEUE_BYTES = 16 * 2**20
"""How much is kept under way; beyond it, the sender is not read."""
_DRIP_S = 0.01


class Place(Protocol):
    """Where one link's conditions and counts are found."""

    conditions: Conditions
    tallies: dict[Way, Tally]


class End(Protocol):
    """One of the two sockets of a connection."""

    @property
    def open(self) -> bool:
        """Whether there is a socket."""

    def send(self, sent: "bytes | Ending") -> None:
        """Hand on bytes, or the end that the other side has made."""

    def read(self, wanted: bool) -> None:
        """Receive, or let the sender wait."""


class Ending(Enum):
    """How a sender ended its way."""

    CLOSED = "FIN"
    BROKEN = "RST"


class Stream:
    """A queue whose head leaves when it is due.

    Args:
        link: whose connection this is a way of.
        way: which way.
        source: the socket that it is fed by.
        sink: the socket that it feeds.
    """

    def __init__(self, link: Place, way: Way, source: End, sink: End) -> None:
        self._way = way
        self._torn = False
        self.ended = False
        self.sink_is_full = False
        self._link, self._source, self._sink = link, source, sink
        self._tally = link.tallies[way]
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, bytes | Ending]] = deque()
        self._queued_bytes = 0
        self._drip_due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_beyond_repair(self) -> bool:
        """Whether it lost something, and would go on behind the gap."""
        return self._torn and self._way not in self._link.conditions.drops

    def take(self, sent: bytes | Ending) -> None:
        """Accept what the source sent, or its end."""
        if self.ended:
            return
        if self._torn or self._way in self._link.conditions.drops:
            # What follows a loss is lost too, its end included.
            self._torn = True
            if isinstance(sent, bytes):
                self._tally.drop(sent)
            return
        # Whatever the dice say, it leaves behind what was sent earlier.
        due_s = self._loop.time() + self._link.conditions.delay_s()
        self._queue.append((due_s, sent))
        if isinstance(sent, bytes):
            self._queued_bytes += len(sent)
        self.pump()

    def pump(self) -> None:
        """Hand on all that may leave, and come back when more may."""
        if self._timer is not None:
            self._timer.cancel()
        while self._may_pass():
            due_s, sent = self._queue[0]
            if self._link.conditions.bytes_per_s < math.inf:
                due_s = max(due_s, self._drip_due_s)
            if due_s > self._loop.time():
                self._timer = self._loop.call_at(due_s, self.pump)
                break
            self._queue.popleft()
            self._pass_on(sent)
        self._source.read(wanted=self._queued_bytes < QUEUE_BYTES)

    def discard(self) -> None:
        """Forget what is under way: nobody is left to receive it."""
        self.ended = True
        self._queue.clear()
        self._queued_bytes = 0
        if self._timer is not None:
            self._timer.cancel()

    def _may_pass(self) -> bool:
        holds = self._link.conditions.holds or self.sink_is_full
        return bool(self._queue) and self._sink.open and not holds

    def _pass_on(self, sent: bytes | Ending) -> None:
        if isinstance(sent, bytes):
            sent = self._drip(sent)
            self._queued_bytes -= len(sent)
            self._tally.passed_bytes += len(sent)
        else:
            self.ended = True
        self._sink.send(sent)

    def _drip(self, chunk: bytes) -> bytes:
        """What of a chunk may leave at once; the rest is put back."""
        bytes_per_s = self._link.conditions.bytes_per_s
        if bytes_per_s == math.inf:
            return chunk
        size = max(1, int(bytes_per_s * _DRIP_S))
        if chunk[size:]:
            self._queue.appendleft((0.0, chunk[size:]))
        # A timer that fired late is made up for, a rest of the sender is not.
        earliest_s = self._loop.time() - _DRIP_S
        self._drip_due_s = max(self._drip_due_s, earliest_s) + len(chunk[:size]) / bytes_per_s
        return chunk[:size]
