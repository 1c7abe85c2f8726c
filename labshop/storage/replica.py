"""A replica of the gate: what it says of the stock, and how old that may be.

The problem: a replica takes the crowd that only looks off the primary, but it follows late, and
does not say how late; and the clocks of two machines cannot be compared to the millisecond. The
idea: a server counts the bytes of its history, its *offset*, and a replica counts how many of them
it has applied. What the primary had counted when it was asked, the replica has applied some time
later; from then on all that it shows is at least as new as that asking. Only this process'
monotonic clock measures, nothing is written, and every process measures for itself.

- A count means something within one history only; its name, the replication id, is compared too.
- Over a new connection a server may be another run, with an older memory: it is measured anew.
- A replica that is frozen, cut off or away lets no measurement succeed, so its age grows until it
  is not asked any more: the bound of the age is the breaker.

It does not promise the truth of this moment, and is never asked whether somebody may buy.

Source: Redis documentation, "Redis replication" and INFO.
"""

import math
from collections import deque
from contextlib import suppress
from typing import NamedTuple

from labshop.clock import Clock
from labshop.locks import Node, NodeError

LOOK_EVERY_MS = 100
MARKS = 100
"""Offsets of the primary that are waited for at once; a replica that lags more gets no new ones."""


class Position(NamedTuple):
    """How far a server has come: an offset in a history."""

    history: str
    offset: int


class _Mark(NamedTuple):
    position: Position
    asked_ms: float


class Replica:
    """A copy of a gate.

    Args:
        node: the server that has it.
        primary: the server that it follows.
        gate_key: the hash of the gate.
        max_age_ms: a copy that may be older is not used.
    """

    def __init__(
        self, node: Node, primary: Node, gate_key: str, *, clock: Clock, max_age_ms: float
    ) -> None:
        self.node = node
        self._primary = primary
        self._gate_key = gate_key
        self._clock = clock
        self._max_age_ms = max_age_ms
        self._marks: deque[_Mark] = deque()
        self._as_of_ms = -math.inf
        self._connection = 0
        """The connection over which that was measured."""

    async def watch(self) -> None:
        """Measure again and again, until cancelled."""
        while True:
            # An outage needs no word here: the age says it.
            with suppress(NodeError):
                await self.look()
            await self._clock.sleep_ms(LOOK_EVERY_MS)

    async def look(self) -> None:
        """Measure once.

        Raises:
            NodeError: one of the two servers does not answer.
        """
        asked_ms = self._clock.now_ms()
        goal = position(await self._primary.command("INFO", "replication"), "master_repl_offset")
        if goal is not None:
            if self._marks and self._marks[-1].position.history != goal.history:
                self._marks.clear()
            if len(self._marks) < MARKS:
                self._marks.append(_Mark(goal, asked_ms))
        connection = self.node.connections
        told = position(await self.node.command("INFO", "replication"), "slave_repl_offset")
        if told is not None and connection == self.node.connections:
            self._reach(told, connection)

    def age_ms(self) -> float:
        """How old the copy may be, in milliseconds; infinite while nobody knows."""
        if self._connection != self.node.connections:
            return math.inf
        return self._clock.now_ms() - self._as_of_ms

    async def left(self, product_id: int) -> tuple[int, float] | None:
        """Units left by the copy, and the moment up to which it surely counts all sales.

        Returns:
            None where the copy is away, too old, or does not have the product.
        """
        as_of_ms = self._as_of_ms
        if self.age_ms() > self._max_age_ms:
            return None
        try:
            ask = self.node.command("HMGET", self._gate_key, "epoch", f"left:{product_id}")
            epoch, left = await ask
        except NodeError:
            return None
        if self._connection != self.node.connections or epoch is None or left is None:
            return None
        return max(int(left), 0), as_of_ms

    def _reach(self, told: Position, connection: int) -> None:
        if connection != self._connection:
            self._as_of_ms, self._connection = -math.inf, connection
        while self._marks and self._marks[0].position.history == told.history:
            if self._marks[0].position.offset > told.offset:
                break
            self._as_of_ms = self._marks.popleft().asked_ms


def position(info: str, offset_field: str) -> Position | None:
    """How far a server has come, by the replication section of its INFO."""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    if "master_replid" not in fields or offset_field not in fields:
        return None
    return Position(fields["master_replid"], int(fields[offset_field]))
