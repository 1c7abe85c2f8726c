"""What the comparison of gate and ledger finds and repairs, as Prometheus metrics.

Every process has the series; only the leader's move. So a dashboard asks for the sum of the
counters, and for the least age: a process that does not lead has looked at nothing, and says +Inf.
"""

import math
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from labshop.clock import Clock
from labshop.storage.comparison import Kind


class RepairMetrics:
    """The series, in a registry of an application."""

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self._clock = clock
        self._looked_at_ms: float | None = None
        self._found = Counter(
            "labshop_mismatches_found",
            "Numbers of the gate that two looks found to be wrong by the same.",
            ["kind"],
            registry=registry,
        )
        self._repaired = Counter(
            "labshop_mismatches_repaired",
            "Numbers of the gate that were repaired by a delta.",
            ["kind"],
            registry=registry,
        )
        self._rebuilt = Counter(
            "labshop_gates_rebuilt",
            "Gates that were built anew because nothing explained their numbers.",
            registry=registry,
        )
        Gauge(
            "labshop_reconciliation_age_seconds",
            "Since this process has last compared gate and ledger.",
            registry=registry,
        ).set_function(lambda: (self.age_ms() or math.inf) / 1_000)
        self._leader = Gauge(
            "labshop_scheduler_leader", "1 where this process leads.", registry=registry
        )
        for kind in get_args(Kind):
            self._found.labels(kind)
            self._repaired.labels(kind)

    def found(self, kind: Kind) -> None:
        """Count a mismatch."""
        self._found.labels(kind).inc()

    def repaired(self, kind: Kind) -> None:
        """Count a mismatch that is none any more."""
        self._repaired.labels(kind).inc()

    def rebuilt(self) -> None:
        """Count a gate that was given up."""
        self._rebuilt.inc()

    def looked(self) -> None:
        """Note that gate and ledger have been compared."""
        self._looked_at_ms = self._clock.now_ms()

    def leads(self, is_leader: bool) -> None:
        """Note whether this process leads."""
        self._leader.set(int(is_leader))

    def age_ms(self) -> float | None:
        """Since this process has last compared gate and ledger; None for never."""
        return None if self._looked_at_ms is None else self._clock.now_ms() - self._looked_at_ms
