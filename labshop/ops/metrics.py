"""What the locks and the purchases do, as Prometheus metrics.

Every series exists from the start: a counter that first appears with its first failure
hides that failure from every rate. Labels have few, fixed values; a product or a user is
never one of them.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from labshop.locks.base import LockEvent, LockEventKind
from labshop.resilience import BREAKER_STATES, Bulkhead
from labshop.stages.guard import Guard

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LOCK_EVENTS = get_args(LockEventKind)
OUTCOMES = ("booked", "replayed", "refused", "unknown")
REASONS = ("full", "rate")


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
        self._replica_lag = Gauge(
            "labshop_replica_lag_seconds",
            "How old the replica's copy of the stock may be: NaN without one, +Inf while unknown.",
            registry=self.registry,
        )
        self._replica_lag.set(math.nan)
        self._purchases = Counter(
            "labshop_purchases",
            "Purchases by stage and outcome.",
            ["stage", "outcome"],
            registry=self.registry,
        )
        turned_away = Counter(
            "labshop_turned_away",
            "Purchases refused at once: the stage is full, or the user asks too often.",
            ["stage", "reason"],
            registry=self.registry,
        )
        self._turned_away = {
            (stage, reason): turned_away.labels(stage, reason)
            for stage in stages
            for reason in REASONS
        }
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

    def turned_away(self, stage: str, reason: str) -> None:
        """Count a purchase that was refused before anything was asked of a store."""
        self._turned_away[stage, reason].inc()

    def watch(self, guards: Iterable[Guard], bulkheads: Mapping[str, Bulkhead]) -> None:
        """Show what keeps the shop alive; it is looked at when somebody asks, and costs nothing."""
        self.registry.register(_Protection(tuple(guards), bulkheads))

    def watch_replica(self, age_ms: Callable[[], float]) -> None:
        """Show how old a replica's copy may be, at the moment in which somebody asks."""
        self._replica_lag.set_function(lambda: age_ms() / 1_000)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _Protection(Collector):
    """Reads breakers, retries and bulkheads at the moment in which they are asked for."""

    def __init__(self, guards: tuple[Guard, ...], bulkheads: Mapping[str, Bulkhead]) -> None:
        self._guards = guards
        self._bulkheads = bulkheads

    def collect(self) -> Iterator[Metric]:
        yield from self._of_breakers()
        yield from self._of_bulkheads()

    def _of_breakers(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "labshop_breaker_state",
            "1 for the state in which a breaker is.",
            labels=["breaker", "state"],
        )
        opened = CounterMetricFamily(
            "labshop_breaker_opened", "How often a breaker has opened.", labels=["breaker"]
        )
        refused = CounterMetricFamily(
            "labshop_breaker_refused", "Calls that a breaker did not let by.", labels=["breaker"]
        )
        retries = CounterMetricFamily(
            "labshop_retries", "Calls that were made once more.", labels=["breaker"]
        )
        for guard in self._guards:
            breaker = guard.breaker
            for each in BREAKER_STATES:
                state.add_metric([breaker.name, each], float(breaker.state == each))
            opened.add_metric([breaker.name], breaker.opened)
            refused.add_metric([breaker.name], breaker.refused)
            retries.add_metric([breaker.name], guard.retries)
        yield from (state, opened, refused, retries)

    def _of_bulkheads(self) -> Iterator[Metric]:
        present = GaugeMetricFamily(
            "labshop_bulkhead_purchases",
            "Purchases inside of a stage's bulkhead, and waiting for it.",
            labels=["stage", "where"],
        )
        refused = CounterMetricFamily(
            "labshop_bulkhead_refused", "Purchases for which there was no place.", labels=["stage"]
        )
        for stage, bulkhead in self._bulkheads.items():
            present.add_metric([stage, "inside"], bulkhead.inside)
            present.add_metric([stage, "waiting"], bulkhead.waiting)
            refused.add_metric([stage], bulkhead.refused)
        yield from (present, refused)
