"""Makes a history that cannot be explained as small as a reader needs it.

The problem: an answer among thousands contradicts what came before. The idea: begin as late as
possible, with all that was over by then folded into the stock; leave out each answer and movement
without which it still cannot be explained; and where many sales lie between two answers, show
their sum.
"""

import math
from bisect import bisect_left, bisect_right
from dataclasses import replace

from labshop.judge.history import Operation
from labshop.judge.search import Step, first_unexplained

READABLE = 8
"""Steps that a witness may have before clarity gives way to size."""


def shortest(steps: list[Step], stock: int, stuck: Step) -> tuple[list[Step], int]:
    """The shortest stretch of history before an unexplained answer that still cannot explain it."""
    told = [_as_far_as(step, stuck.by_ms) for step in steps if step.from_ms <= stuck.by_ms]
    told = [step for step in told if step.delta or step.by_ms <= stuck.by_ms]
    before = sorted({s.from_ms for s in steps if s.from_ms <= stuck.from_ms}, reverse=True)
    # A longer stretch has more to explain than a shorter one, and folds less: if one fails, so
    # does every longer one. First it doubles, so that only short ones are tried, then it halves.
    reach = 1
    while reach < len(before) and not fails(*_window(told, stock, before[reach - 1])):
        reach *= 2
    far, near = min(reach, len(before)) - 1, reach // 2 - 1
    while far - near > 1:
        middle = (far + near) // 2
        if fails(*_window(told, stock, before[middle])):
            far = middle
        else:
            near = middle
    stretches = (_window(told, stock, from_ms) for from_ms in before[far:])
    # Where a restock is still open, its units may be sold already: begin before those sales.
    return next((it for it in stretches if it[1] >= 0), _window(told, stock, before[-1]))


def fewest(steps: list[Step], stock: int, stuck: Step) -> tuple[list[Step], int]:
    """The steps without which this answer would be explained, and the stock before them."""
    kept = steps
    # Answers go first: what is folded afterwards is folded by reason of those that are left.
    for step in sorted((step for step in kept if step is not stuck), key=lambda it: it.delta != 0):
        fewer = [other for other in kept if other is not step]
        # An observation may go, for then more is possible, not less; a movement, if it makes no
        # difference whether it is not done at all, or was done before.
        if step.delta and not (fails(fewer, stock) and fails(fewer, stock + step.delta)):
            continue
        for begin in (stock, stock + step.delta):
            if begin >= 0 and first_unexplained(fewer, begin) == stuck:
                kept, stock = fewer, begin
                break
    for step in [step for step in kept if step.by_ms > stuck.by_ms]:
        # Where many may have come or not, few are shown, though an earlier answer stumbles then.
        fewer = [other for other in kept if other is not step]
        if len(kept) > READABLE and fails(fewer, stock):
            kept = fewer
    return kept, stock


def _as_far_as(step: Step, at_ms: float) -> Step:
    """A movement, as it is at a moment: what has not surely come by then may come or not."""
    return replace(step, by_ms=math.inf) if step.delta and step.by_ms > at_ms else step


def _window(steps: list[Step], stock: int, from_ms: float) -> tuple[list[Step], int]:
    """What was open or began from a moment on; all movements that were over are in the stock."""
    over = sum(step.delta for step in steps if step.by_ms < from_ms)
    # An observation from before would have to be explained without what is folded away.
    kept = [s for s in steps if s.by_ms >= from_ms and (s.delta or s.from_ms >= from_ms)]
    return kept, stock + over


def fails(steps: list[Step], stock: int) -> bool:
    """Whether no order of effects explains these steps."""
    return first_unexplained(steps, stock) is not None


def summed(steps: list[Step], stock: int, stuck: Step, product: int) -> list[Step]:
    """Many movements that lie between the same answers, shown as one restock of their sum."""
    bounds = sorted({t for s in steps if not s.delta for t in (s.from_ms, s.by_ms)})
    groups: dict[int, list[Step]] = {}
    for step in steps:
        if step.delta and not math.isinf(step.by_ms):
            before = bisect_left(bounds, step.from_ms)
            if before == bisect_right(bounds, step.by_ms):
                groups.setdefault(before, []).append(step)
    for group in groups.values():
        if len(group) > 1:
            others = [step for step in steps if step not in group]
            shorter = sorted([*others, _sum(group, product)], key=lambda step: step.from_ms)
            if first_unexplained(shorter, stock) == stuck:
                steps = shorter
    return steps


def _sum(group: list[Step], product: int) -> Step:
    units = sum(step.delta for step in group)
    from_ms, by_ms = min(s.from_ms for s in group), max(s.by_ms for s in group)
    name = f"{len(group)} movements from {group[0].operations[0].id}"
    args = {"product": product, "units": units}
    operation = Operation(name, "all others", "restock", args, from_ms, by_ms, "ok")
    return Step(from_ms, by_ms, units, max(-units, 0), math.inf, (operation,))
