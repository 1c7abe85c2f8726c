"""What the locks and the purchases do, as Prometheus metrics.

Every series exists from the start: a counter that first appears with its first failure
hides that failure from every rate. Labels have few, fixed values; a product or a user is
never one of them.
"""

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from labshop.locks.base import LockEvent, LockEventKind

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LOCK_EVENTS = get_args(LockEventKind)
OUTCOMES = ("booked", "replayed", "refused", "unknown")


class Metrics:
    """One registry per application, so that two can live in one process."""

    def __init__(self, stages: tuple[str, ...]) -> None:
        self.registry = CollectorRegistry()
        self._lock_events = Counter(
            "labshop_lock_events", "What happened to locks.", ["kind"], registry=self.registry
        )
        self._lock_wait = Histogram(
            "labshop_lock_wait_seconds",
            "From asking for a lock to holding it.",
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._lock_hold = Histogram(
            "labshop_lock_hold_seconds",
            "From holding a lock to releasing it.",
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._locks_held = Gauge(
            "labshop_locks_held", "Locks held by this process.", registry=self.registry
        )
        self._purchases = Counter(
            "labshop_purchases",
            "Purchases by stage and outcome.",
            ["stage", "outcome"],
            registry=self.registry,
        )
        for kind in LOCK_EVENTS:
            self._lock_events.labels(kind)
        # A label's series is looked up once, not at each purchase.
        self._purchase = {
            (stage, outcome): self._purchases.labels(stage, outcome)
            for stage in stages
            for outcome in OUTCOMES
        }

    def lock_event(self, event: LockEvent) -> None:
        """Count an event of a lock."""
        self._lock_events.labels(event.kind).inc()
        if event.kind == "acquired":
            self._lock_wait.observe(event.waited_ms / 1_000)
            self._locks_held.inc()
        elif event.kind in ("released", "lost", "abandoned"):
            self._lock_hold.observe(event.held_ms / 1_000)
            self._locks_held.dec()

    def purchase(self, stage: str, outcome: str) -> None:
        """Count the end of a purchase."""
        self._purchase[stage, outcome].inc()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
