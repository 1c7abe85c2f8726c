"""What a trial puts between a strategy and its ledger: eyes, and a foot in the door.

The foot holds the orders that come first to the ledger, of all branches, for a given time: so a
buyer stands still between having the lock and writing, as a stopped process would. The eyes note
the calls that a half-open breaker lets through.
"""

import asyncio
from dataclasses import dataclass, field

from labshop.clock import Clock
from labshop.judge.recorder import Recorder
from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import Refused
from labshop.shop.events import Event
from labshop.stages.base import Ledger


class Foot:
    """Holds the first `count` who come, each for `hold_ms`."""

    def __init__(self, hold_ms: float, count: int) -> None:
        self._hold_s = hold_ms / 1_000
        self._count = count if hold_ms else 0

    async def hold(self) -> None:
        """Stand still, if so many have not yet."""
        if self._count:
            self._count -= 1
            await asyncio.sleep(self._hold_s)


@dataclass
class Watch:
    """The watch over one branch."""

    branch: str
    recorder: Recorder
    foot: Foot
    _half_open: set[str] = field(default_factory=set)

    def ledger(self, ledger: Ledger) -> Ledger:
        """The ledger as the branch's strategy sees it."""
        return _WatchedLedger(ledger, self)

    def publish(self, event: Event) -> None:
        """Take what the strategy publishes; a breaker tells its changes so."""
        if event.kind == "breaker":
            name, state = f"{event.details['name']} of {self.branch}", event.details["state"]
            self.recorder.breaker_change(name, state, process=self.branch)
            if event.details["name"] == "ledger":  # the one whose calls pass through here
                (self._half_open.add if state == "half_open" else self._half_open.discard)(name)

    async def record(self, ledger: Ledger, order: Order, fence: int) -> Receipt:
        await self.foot.hold()
        if not self._half_open:
            return await ledger.record(order, fence=fence)
        [name, *_] = self._half_open
        with self.recorder.invoke(self.branch, "probe", {"name": name}) as probe:
            try:
                receipt = await ledger.record(order, fence=fence)
            except Refused as refusal:
                probe.fail(type(refusal).__name__)
                raise
            probe.ok()
            return receipt


@dataclass(frozen=True)
class _WatchedLedger:
    ledger: Ledger
    watch: Watch

    async def record(self, order: Order, *, fence: int) -> Receipt:
        """See `labshop.stages.base.Ledger`."""
        return await self.watch.record(self.ledger, order, fence)


@dataclass(frozen=True)
class SkewedClock:
    """A clock whose wall time is ahead; durations are right."""

    clock: Clock
    ahead_s: float

    def now_ms(self) -> float:
        """See `Clock`."""
        return self.clock.now_ms()

    def wall_s(self) -> float:
        """See `Clock`."""
        return self.clock.wall_s() + self.ahead_s

    async def sleep_ms(self, duration_ms: float) -> None:
        """See `Clock`."""
        await self.clock.sleep_ms(duration_ms)
