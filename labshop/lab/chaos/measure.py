"""What a sale under faults tells of availability and recovery, as plain arithmetic.

Recovery from a fault is the time from its end until each API has served a probe that was sent after
that end, whatever else has struck meanwhile: faults overlap here, so it is more than one alone
would cost, and never less. A killed process' restart counts as recovery, as it would to a buyer.
Whatever was not back within `RECOVER_S` has not recovered by itself.

Availability is the share of probes that got their receipt within `probes.PROMPT_S` of being sent.
"""

import math
import random
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from labshop.judge.history import History
from labshop.lab.chaos.deck import Kind
from labshop.lab.chaos.probes import first_attempts, is_prompt, served_since

RECOVER_S = 30.0
SAMPLES = 2_000
FEWEST_SALES = 2
Z_95 = statistics.NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Spell:
    """A fault that was really there, from `struck_ms` until the moment its healing began."""

    kind: Kind
    target: str
    struck_ms: float
    lifted_ms: float


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    of: int
    hits: int

    @property
    def ratio(self) -> float:
        """From 0 to 1; of nothing, all."""
        return self.hits / self.of if self.of else 1.0

    def __add__(self, other: "Share") -> "Share":
        return Share(self.of + other.of, self.hits + other.hits)

    def wilson(self) -> tuple[float, float]:
        """The 95 % interval of independent trials (E. B. Wilson, 1927)."""
        if not self.of:
            return 0.0, 1.0
        n, p, z = self.of, self.ratio, Z_95
        middle = p + z * z / (2 * n)
        spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        scale = 1 + z * z / n
        return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def resampled(shares: Sequence[Share], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a sum of shares, by drawing whole sales anew.

    Probes of one outage fail together, so they are no independent trials; sales are. Of a single
    sale nothing can be drawn: its probes count as independent.
    """
    chance = random.Random(seed)  # noqa: S311  # a bootstrap that can be repeated
    if len(shares) < FEWEST_SALES:
        return sum(shares, Share(0, 0)).wilson()
    drawn = (chance.choices(shares, k=len(shares)) for _ in range(SAMPLES))
    ratios = sorted(sum(sales, Share(0, 0)).ratio for sales in drawn)
    return ratios[int(0.025 * SAMPLES)], ratios[int(0.975 * SAMPLES) - 1]


def recovery_s(spell: Spell, history: History, apis: Collection[str]) -> float | None:
    """How long the shop took to recover from a fault; None if it did not within `RECOVER_S`."""
    served = [served_since(history, api, spell.lifted_ms) for api in apis]
    ends = [at_ms for at_ms in served if at_ms is not None]
    if len(ends) < len(served):
        return None
    took_s = (max(ends) - spell.lifted_ms) / 1_000
    return took_s if took_s < RECOVER_S else None


def availability(history: History, spells: Collection[Spell]) -> tuple[Share, Share]:
    """Probes served in time: of those sent while a fault was there, and of the others.

    What was sent after a fault, and before the shop had recovered from it, is among the others.
    """
    inside, outside = Share(0, 0), Share(0, 0)
    for attempt in first_attempts(history).values():
        share = Share(1, int(is_prompt(attempt)))
        if any(it.struck_ms <= attempt.invoked_ms <= it.lifted_ms for it in spells):
            inside += share
        else:
            outside += share
    return inside, outside


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that so large a share does not exceed; 0 of none."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else 0.0
