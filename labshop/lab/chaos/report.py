"""What a campaign has brought: its sales, what was missed, and the table that says both.

Each sale is boiled down to a summary as soon as it is judged: histories are large. Those of sales
that failed are written to files first.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from labshop.lab.chaos.deck import Kind
from labshop.lab.chaos.measure import (
    RECOVER_S,
    Share,
    availability,
    percentile,
    recovery_s,
    resampled,
)
from labshop.lab.chaos.premises import APIS
from labshop.lab.chaos.sale import Played

RECOVERED_AT_LEAST = 0.99
AIM_P99_S = 5.0


@dataclass(frozen=True)
class Summary:
    """What is kept of a sale. A recovery is None where the shop did not recover by itself."""

    seed: int
    outcome: str
    reason: str
    broken: tuple[str, ...]
    receipts: frozenset[str]
    oversold: int
    undersold: int
    recoveries: tuple[tuple[Kind, float | None], ...]
    inside: Share
    outside: Share
    missing: tuple[str, ...]
    stuck: tuple[str, ...]
    took_s: float

    @classmethod
    def of(cls, played: Played) -> "Summary":
        """Boil a sale down."""
        history, spells = played.history, played.spells
        inside, outside = availability(history, spells)
        bought = (buy for buy in history.of("buy") if buy.outcome == "ok")
        return cls(
            seed=played.seed,
            outcome=played.verdict.outcome,
            reason=played.verdict.reason,
            broken=played.verdict.broken,
            receipts=frozenset(str(buy.order_id) for buy in bought),
            oversold=played.oversold,
            undersold=played.undersold,
            recoveries=tuple((it.kind, recovery_s(it, history, APIS)) for it in spells),
            inside=inside,
            outside=outside,
            missing=played.missing,
            stuck=played.stuck,
            took_s=played.took_s,
        )

    @property
    def failed(self) -> bool:
        """Whether anything is not as it has to be."""
        recovered = all(took_s is not None for _, took_s in self.recoveries)
        sold_right = self.oversold == self.undersold == 0
        return self.outcome != "VALID" or bool(self.stuck) or not (recovered and sold_right)

    def __str__(self) -> str:
        slowest = max((_at_least(took_s) for _, took_s in self.recoveries), default=0.0)
        faults = ", ".join(f"{kind.whose} {kind.name}" for kind, _ in self.recoveries)
        return f"seed {self.seed}: {self.outcome}, back in {slowest:.1f} s at most ({faults})"


@dataclass(frozen=True)
class Report:
    """A campaign's sales; `lost` are receipts whose order is not in the ledger at the end."""

    stage: str
    asked: int
    sales: tuple[Summary, ...]
    lost: Collection[str]
    took_s: float
    repeat: str
    """The command that repeats a sale, but for its seed."""

    @property
    def recoveries(self) -> list[float | None]:
        return [took_s for sale in self.sales for _, took_s in sale.recoveries]

    @property
    def recovered(self) -> Share:
        times = self.recoveries
        return Share(len(times), sum(took_s is not None for took_s in times))

    @property
    def times_s(self) -> list[float]:
        """Recoveries that came to an end, in seconds."""
        return [took_s for took_s in self.recoveries if took_s is not None]

    @property
    def misses(self) -> list[str]:
        """Sentences on what is not as it has to be; without one, the campaign has passed."""
        return list(self._misses())

    def _misses(self) -> Iterator[str]:
        if len(self.recoveries) < self.asked:
            yield f"Only {len(self.recoveries)} of {self.asked} faults were made in time."
        if self.lost:
            yield f"{len(self.lost)} acknowledged orders are not in the ledger at the end."
        if self.recovered.ratio <= RECOVERED_AT_LEAST and self.recovered.of:
            yield f"Only {self.recovered.ratio:.1%} of the faults were recovered from."
        for sale in self.sales:
            if sale.failed:
                words = [f"{sale.outcome}: {sale.reason}", *sale.stuck]
                words += [f"no recovery from {kind}" for kind, s in sale.recoveries if s is None]
                if sale.oversold or sale.undersold:
                    words.append(f"{sale.oversold} oversold, {sale.undersold} undersold")
                yield f"{'; '.join(words)}. Repeat: {self.repeat} --seed {sale.seed}"

    def as_dict(self) -> dict[str, Any]:
        """All figures, for a file."""
        inside, outside = self._shares("inside"), self._shares("outside")
        every = [one + other for one, other in zip(inside, outside, strict=True)]
        low, high = self.recovered.wilson()
        return {
            "stage": self.stage,
            "took_s": round(self.took_s, 1),
            "sales": len(self.sales),
            "faults": len(self.recoveries),
            "faults_by_kind": self.by_kind(),
            "verdicts": Counter(sale.outcome for sale in self.sales),
            "acknowledged": sum(len(sale.receipts) for sale in self.sales),
            "lost": len(self.lost),
            "oversold": sum(sale.oversold for sale in self.sales),
            "undersold": sum(sale.undersold for sale in self.sales),
            "recovered": {**_told(self.recovered), "low": low, "high": high},
            "recovery_s": {
                "p50": percentile(self.times_s, 0.5),
                "p99": percentile(self.times_s, 0.99),
                "max": max(self.times_s, default=0.0),
            },
            "availability": {
                name: {**_told(sum(shares, Share(0, 0))), "low": ends[0], "high": ends[1]}
                for name, shares in (("all", every), ("inside", inside), ("outside", outside))
                for ends in [resampled(shares)]
            },
            "not_made": [sentence for sale in self.sales for sentence in sale.missing],
            "misses": self.misses,
            "seeds": [_sale_as_dict(sale) for sale in self.sales],
        }

    def by_kind(self) -> dict[str, dict[str, float]]:
        """How often each kind struck, and the slowest recovery from it."""
        found: dict[Kind, list[float]] = {}
        for sale in self.sales:
            for kind, took_s in sale.recoveries:
                found.setdefault(kind, []).append(_at_least(took_s))
        return {
            str(kind): {
                "faults": len(times),
                "median_s": percentile(times, 0.5),
                "max_s": max(times),
            }
            for kind, times in sorted(found.items(), key=lambda it: (it[0].whose, it[0].name))
        }

    def _shares(self, where: str) -> list[Share]:
        return [getattr(sale, where) for sale in self.sales]

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _lines(report: Report) -> Iterator[str]:
    told = report.as_dict()
    yield f"{'FAULTS':34} {'TIMES':>5}  {'RECOVERY p50':>12}  {'MAX':>7}"
    for kind, row in told["faults_by_kind"].items():
        yield f"{kind:34} {row['faults']:5}  {row['median_s']:10.2f} s  {row['max_s']:5.2f} s"
    yield ""
    verdicts = ", ".join(f"{count} {outcome}" for outcome, count in told["verdicts"].items())
    yield f"{told['faults']} faults in {told['sales']} sales and {told['took_s']:.0f} s: {verdicts}"
    sold = f"{told['oversold']} oversold, {told['undersold']} undersold"
    yield f"orders: {told['acknowledged']} acknowledged, {told['lost']} lost; units: {sold}"
    yield f"recovered by itself: {_percent(told['recovered'])} (Wilson)"
    times = told["recovery_s"]
    aim = "reached" if times["p99"] < AIM_P99_S else "missed"
    yield (
        f"recovery: p50 {times['p50']:.2f} s, p99 {times['p99']:.2f} s, max {times['max']:.2f} s"
        f" (aim: p99 < {AIM_P99_S:.0f} s, {aim})"
    )
    for name, words in (("all", "of all"), ("inside", "under faults"), ("outside", "else")):
        yield f"availability, {words + ':':13} {_percent(told['availability'][name])} (by sales)"
    yield "  (probe purchases, one a beat and API, that had their receipt within 2 s)"
    for sentence in report.misses:
        yield f"MISSED: {sentence}"


def _at_least(took_s: float | None) -> float:
    return RECOVER_S if took_s is None else took_s


def _percent(told: dict[str, float]) -> str:
    interval = f"95 % interval {told['low']:.2%} to {told['high']:.2%}"
    return f"{told['hits']} of {told['of']}, {told['ratio']:.2%}, {interval}"


def _told(share: Share) -> dict[str, float]:
    return {**asdict(share), "ratio": share.ratio}


def _sale_as_dict(sale: Summary) -> dict[str, Any]:
    return {
        "seed": sale.seed,
        "outcome": sale.outcome,
        "broken": sale.broken,
        "took_s": round(sale.took_s, 1),
        "recovery_s": [[str(kind), took_s] for kind, took_s in sale.recoveries],
    }
