"""Writes down what really happens in a forced run, in the order in which it happens.

A forced schedule is the same each time, so its steps are numbered, not timed: the drawing of a
run is then the same in every notebook, and is still made of that run's own events.
"""

from dataclasses import dataclass, field

from labshop.lab.lanes import Band, Bar, BarKind, Point, PointKind
from labshop.locks import LockEvent
from labshop.locks.base import LockEventHook


@dataclass
class Story:
    """The events of one run; each `note`, `begin` or `end` is one step."""

    step: int = 0
    _events: list[Bar | Point | Band] = field(default_factory=list)
    _open: dict[str, Bar] = field(default_factory=dict)

    def note(self, lane: str, kind: PointKind, text: str) -> None:
        """Something happened in a lane."""
        self.step += 1
        self._events.append(Point(lane, self.step, kind, text))

    def begin(self, lane: str, kind: BarKind, text: str = "") -> None:
        """Something begins in a lane, and ends what was under way there."""
        self.end(lane)
        self._open[lane] = Bar(lane, self.step, self.step, kind, text)

    def end(self, lane: str) -> None:
        """What was under way in a lane ends."""
        self.step += 1
        bar = self._open.pop(lane, None)
        if bar is not None:
            self._events.append(Bar(lane, bar.start, self.step, bar.kind, bar.text))

    def lock_events(self, lane: str) -> LockEventHook:
        """A lock's hook that draws its leases in a lane."""

        def hook(event: LockEvent) -> None:
            if event.kind == "acquired":
                self.begin(lane, "lease", f"{lane}'s lease")
            elif event.kind in ("released", "lost", "abandoned"):
                self.end(lane)

        return hook

    def events(self, *lanes: str) -> list[Bar | Point | Band]:
        """All events, or those of some lanes; what is still under way is left out."""
        order = {lane: number for number, lane in enumerate(lanes)}
        kept = [
            event
            for event in self._events
            if isinstance(event, Band) or not lanes or event.lane in order
        ]
        return sorted(kept, key=lambda e: -1 if isinstance(e, Band) else order.get(e.lane, 0))
