"""The second exercise of lesson 2: sell bundles from plain counters, tried by the lab.

Here no gate and no conditional ledger stand behind the strategy: what it does between reading a
counter and taking from it, only its locks protect.
"""

from dataclasses import replace

from labshop.lab.grade import Finding, Grade
from labshop.lab.session import Lab
from labshop.lab.trial.run import MakeStrategy
from labshop.lab.trial.scenarios import SCENARIOS
from labshop.lab.verdict_chart import show_verdict
from labshop.shop.domain import Order, Receipt, merge_lines
from labshop.shop.errors import Refused, SoldOut
from labshop.stages.base import Toolbox

EXERCISE = "02_multilock/bundles"


class ReferencePurchase:
    """Sells bundles from counters, for who goes on without a strategy of their own."""

    def __init__(self, tools: Toolbox) -> None:
        self.lock, self.node, self.ledger = tools.lock, tools.node, tools.ledger
        self.lock_wait_ms = tools.lock_wait_ms

    async def buy(self, order: Order) -> Receipt:
        """Book all lines, or none."""
        order = replace(order, lines=merge_lines(order.lines))
        names = [f"product:{line.product_id}" for line in order.lines]
        async with self.lock(*names).hold(wait_ms=self.lock_wait_ms) as lease:
            for line in order.lines:
                left = int(await self.node.command("GET", f"stock:{line.product_id}"))
                if left < line.quantity:
                    raise SoldOut(line.product_id, left)
            for line in order.lines:
                await self.node.command("DECRBY", f"stock:{line.product_id}", line.quantity)
            try:
                return await self.ledger.record(order, fence=lease.fence)
            except Refused:
                for line in order.lines:
                    await self.node.command("INCRBY", f"stock:{line.product_id}", line.quantity)
                raise


async def check_purchase(lab: Lab, strategy: MakeStrategy) -> Grade:
    """Try a strategy in every scenario; print the verdicts, and draw the first failing history.

    Args:
        lab: its arena is used.
        strategy: the learner's class.
    """
    findings = []
    for scenario, (name, points) in PROPERTIES.items():
        unwritten = _Unwritten(strategy)
        trial = await lab.try_out(unwritten.make, scenarios=[scenario], show=False)
        outcome, verdict = trial.verdict.outcome, trial.verdict
        if unwritten.seen:
            findings.append(Finding(name, points, "TODO"))
        elif outcome == "VALID":
            findings.append(Finding(name, points, "PASS"))
        else:
            reason = f"{SCENARIOS[scenario].story} {verdict}"
            if not any(finding.outcome == "FAIL" for finding in findings):
                show_verdict(verdict)
            findings.append(Finding(name, points, "FAIL", reason))
    return Grade(EXERCISE, tuple(findings))


class _Unwritten:
    """Makes the strategy, and notes whether any of its answers was NotImplementedError."""

    def __init__(self, strategy: MakeStrategy) -> None:
        self.strategy = strategy
        self.seen = False

    def make(self, tools: Toolbox) -> "_Seen":
        return _Seen(self, tools)


class _Seen:
    def __init__(self, noted: _Unwritten, tools: Toolbox) -> None:
        self._noted = noted
        self._strategy = noted.strategy(tools)

    async def buy(self, order: Order) -> Receipt:
        try:
            return await self._strategy.buy(order)
        except NotImplementedError:
            self._noted.seen = True
            raise


PROPERTIES = {
    "bundles": ("all of a bundle, or nothing", 2),
    "two lines": ("a product on two lines is one demand", 1),
    "pressed twice": ("what the ledger refuses is on sale again", 2),
}
"""By the name of the scenario that shows it."""

HINTS = {
    "all of a bundle, or nothing": "Look at every counter before you take from any; and let nobody "
    "else look or take meanwhile.",
    "a product on two lines is one demand": "2 of a product and 2 of the same product is 4. "
    "labshop.shop.domain has a function that sums lines.",
    "what the ledger refuses is on sale again": "When `record` raises `Refused`, the counters are "
    "lower already. Undo by the opposite.",
}
