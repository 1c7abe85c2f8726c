"""What is known here to be sold out, so that the gate need not say it a thousand times.

The problem: when the last unit is gone the crowd still asks, and each answer costs a round trip. A
flag in this process' memory spares the gate the crowd; but one that outlives a restock leaves units
unsold (`labshop.zoo.sold_out_for_ever`). The idea: a flag is raised only where the gate has said
that nothing is left *and nothing is held*, for then only a restock changes that; and each script
that puts units on sale says so in the same atomic step, on a channel that every process hears over
the connection by which it asks.

- Answers and messages come in the server's order, but a task may look at its answer after a message
  that came later. So an answer raises no flag if a restock was heard since it was asked for.
- A connection that broke may have been bringing a message: all flags fall with it.
- A flag is believed for `BELIEVED_MS`, then whoever comes asks the gate again. So a message that is
  lost all the same costs so much time, and no unit.

It does not promise that nobody is told "sold out" while the message of a restock is on its way, nor
that a buyer who is refused by a flag is told what else stands in the way, such as a token that was
taken back. An order that was booked before keeps its receipt: see `labshop.api.desk`.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from labshop.clock import Clock
from labshop.shop.domain import Line
from labshop.shop.errors import SoldOut
from labshop.storage.gate import Gate

BELIEVED_MS = 200


class _Flag(NamedTuple):
    asked_ms: float
    until_ms: float


class SoldOutFlags:
    """One flag a product that is sold out, as the gates that are heard have said."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._flags: dict[int, _Flag] = {}
        self._heard_ms = -math.inf
        self._told: list[Callable[[int | None], object]] = []

    def hear(self, gate: Gate) -> None:
        """Lower flags when units come back on sale at a gate, by whomever."""
        gate.node.listen(f"labshop:restock:{gate.key}", self._lower)

    def when_restocked(self, tell: Callable[[int | None], object]) -> None:
        """Have somebody told of each restock.

        Args:
            tell: gets the product; None when it may have been any.
        """
        self._told.append(tell)

    def refuse(self, lines: Sequence[Line]) -> float:
        """Refuse an order of what is sold out.

        Returns:
            When the gate is asked, if it is: what `note` has to know of its answer.

        Raises:
            SoldOut: without asking the gate.
        """
        if self._flags:
            for line in lines:
                if self.since_ms(line.product_id) is not None:
                    raise SoldOut(line.product_id, 0)
        return self._clock.now_ms()

    def since_ms(self, product_id: int) -> float | None:
        """When a product is known to have been sold out; None where it is not known to be."""
        flag = self._flags.get(product_id)
        if flag is None:
            return None
        if self._clock.now_ms() >= flag.until_ms:
            del self._flags[product_id]
            return None
        return flag.asked_ms

    def note(self, answer: Sequence[str], asked_ms: float) -> None:
        """Raise a flag if the gate's refusal allows it.

        Args:
            answer: of `reserve_stock.lua`.
            asked_ms: what `refuse` returned before the gate was asked.
        """
        match answer:
            case ["sold_out", product_id, _, unsold] if int(unsold) < 1:
                if asked_ms > self._heard_ms:
                    until_ms = self._clock.now_ms() + BELIEVED_MS
                    self._flags[int(product_id)] = _Flag(asked_ms, until_ms)

    def _lower(self, restocked: str | None) -> None:
        self._heard_ms = self._clock.now_ms()
        product_id = int(restocked) if restocked and restocked.isdecimal() else None
        if product_id is None:
            self._flags.clear()
        else:
            self._flags.pop(product_id, None)
        for tell in self._told:
            tell(product_id)
