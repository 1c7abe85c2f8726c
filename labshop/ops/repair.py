"""Repairs the gate's numbers in mid-sale, by what they lack and never by what they should be.

The problem: somebody's defect, or an operator's hand, leaves a wrong number at the gate. Too little
there, and units are left unsold though they are wanted; to build the gate anew stops the sale for a
moment, and to SET the number wipes out what others buy in between. The idea: a drift (see
`labshop.storage.comparison`) is the same number at any moment of the sale, so it is looked at twice
and then taken off by one atomic addition, while everybody goes on buying.

- Orders that the gate was not told of are told to it. That may be done twice, by anybody.
- An addition may not. So only the scheduler's leader repairs, and under its fence: the script
  refuses a leader that stood still, and was replaced, when its addition comes late. It refuses,
  too, when the gate is another one than was looked at (its epoch).
- If no reply comes, nobody knows whether it was done. The connection keeps its order, so the next
  look sees the gate with it or without it, and never before it.
- A drift that is another one at each look has no explanation. Then the gate is built anew.
- In a rush there is more news than a look may take in. It catches up with twenty times the patience
  that it needs, so that looking never costs a sale more than a twentieth of one core.

It does not promise that a wrong number hurts nobody until it is found: the ledger does, for too
many; and for too few, a buyer may be told "sold out" a few seconds too early.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from labshop.clock import Clock
from labshop.locks.wire import Part
from labshop.ops.repair_metrics import RepairMetrics
from labshop.shop.events import Event
from labshop.storage.comparison import Comparison, Finding, Place
from labshop.storage.inventory import REMEMBER_MS, RedisInventory

log = structlog.get_logger()

PAUSE_MS = 300
"""Between two looks at the same numbers; longer than it takes to build a gate anew."""
LOOKS = 4
CATCH_UPS = 50
REST = 19
"""Times as long as a look has taken, it rests before the next one, when there is news left."""
UNWATCHED_MS = REMEMBER_MS // 2
"""So long after it has last known all news, the gate may have forgotten what it was told."""


@dataclass(frozen=True)
class Mismatch:
    """A number of the gate that two looks found to be wrong by the same."""

    place: Place
    drift: int
    is_repaired: bool

    def __str__(self) -> str:
        much = f"{abs(self.drift)} too {'many' if self.drift > 0 else 'few'}"
        return f"{self.place}: {much}, {'repaired' if self.is_repaired else 'not repaired'}"


@dataclass(frozen=True)
class Report:
    """What came of one run; with `is_rebuilt` the gate was given up and built anew."""

    mismatches: tuple[Mismatch, ...] = ()
    is_rebuilt: bool = False


class Repairer:
    """Compares one gate with its ledger, and repairs it.

    Args:
        publish: told of each repair.
    """

    def __init__(
        self,
        inventory: RedisInventory,
        comparison: Comparison,
        clock: Clock,
        metrics: RepairMetrics,
        publish: Callable[[Event], None],
    ) -> None:
        self._inventory = inventory
        self._gate = inventory.gate
        self._comparison = comparison
        self._clock = clock
        self._metrics = metrics
        self._publish = publish
        self._leader_key = f"{self._gate.tag}:leader"

    async def repair(self, fence: int) -> Report:
        """Compare a page of the gate with the ledger, and repair what two looks agree about.

        Args:
            fence: the leader's fencing token.

        Raises:
            Unavailable: gate or ledger cannot be reached.
        """
        for _ in range(CATCH_UPS):
            began_ms = self._clock.now_ms()
            seen = await self._comparison.look()
            if seen.unwatched_ms > UNWATCHED_MS:
                return await self._rebuild("nobody has known all its news for long")
            await self._tell(seen)
            if await self._add(seen, {}, fence) == "stale":
                return Report()
            if not seen.is_behind:
                break
            await self._clock.sleep_ms(REST * (self._clock.now_ms() - began_ms))
        report = await self._look_again(seen, fence)
        self._metrics.looked()
        return report

    async def inspect(self) -> Report:
        """Compare a page of the gate with the ledger, and leave it as it is.

        Raises:
            Unavailable: gate or ledger cannot be reached.
        """
        return await self._look_again(await self._comparison.look(), None)

    async def _look_again(self, seen: Finding, fence: int | None) -> Report:
        """See which drifts are still the same, and repair those, until none is in doubt."""
        drifts, mismatches = seen.drifts, list[Mismatch]()
        for _ in range(LOOKS):
            if not drifts:
                return Report(tuple(mismatches))
            await self._clock.sleep_ms(PAUSE_MS)
            again = await self._comparison.look(drifts)
            if again.epoch != seen.epoch:
                return Report(tuple(mismatches))
            agreed = {it: drift for it, drift in again.drifts.items() if drifts.get(it) == drift}
            mismatches += await self._repair(again, agreed, fence)
            drifts = {
                it: drift for it, drift in again.drifts.items() if it in drifts and it not in agreed
            }
        if fence is None:
            return Report(tuple(mismatches))
        return await self._rebuild("its numbers are wrong by something else at each look")

    async def _repair(
        self, seen: Finding, drifts: Mapping[Place, int], fence: int | None
    ) -> list[Mismatch]:
        if not drifts:
            return []
        answer = "only looked at" if fence is None else await self._add(seen, drifts, fence)
        is_repaired = answer == "repaired"
        for place, drift in drifts.items():
            details = {"place": str(place), "delta": -drift, "epoch": seen.epoch, "fence": fence}
            log.warning("gate.mismatch", answer=answer, **details)
            self._metrics.found(place.kind)
            if is_repaired:
                self._metrics.repaired(place.kind)
                self._publish(Event("repair", details))
        return [Mismatch(place, drift, is_repaired) for place, drift in drifts.items()]

    async def _add(self, seen: Finding, drifts: Mapping[Place, int], fence: int) -> str:
        """Take drifts off, and note that the gate was looked at."""
        gate = self._gate
        stock: list[Part] = []
        bought: list[Part] = []
        for place, drift in drifts.items():
            if place.kind == "bought":
                bought += [place.number, -drift]
            else:
                stock += [str(place), -drift]
        is_whole = int(not seen.is_behind)
        args = (seen.epoch, fence, seen.settled, is_whole, len(stock) // 2, *stock, *bought)
        # Not by `Gate.believed`, which may ask twice.
        answer = await gate.run("repair_stock", (gate.key, gate.bought, self._leader_key), args)
        if answer == "stale":
            log.warning("repair.refused", fence=fence, reason="a newer leader has repaired")
        return str(answer)

    async def _tell(self, seen: Finding) -> None:
        for movement in seen.untold:
            receipt = movement.receipt
            if receipt.sequence > seen.settled:
                await self._inventory.confirm(receipt)
            if receipt.status == "cancelled":
                await self._inventory.put_back(receipt, movement.newest)

    async def _rebuild(self, reason: str) -> Report:
        log.warning("gate.given_up", reason=reason)
        await self._gate.rebuild()
        self._metrics.rebuilt()
        return Report(is_rebuilt=True)
