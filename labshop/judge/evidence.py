"""What surely happened, what may have happened, and when at the latest: read out of a history.

Each purchase, cancellation and restock becomes a *movement* of a product's stock, with the
earliest and the latest moment of its effect. What an audit of the ledger shows resolves the
unknown: an order that it lists happened; one that is missing, after the shop has settled, did not.

Wherever a history leaves a doubt, both possibilities are kept, so that nobody is accused by one.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property

from labshop.judge.flow import Flow, Movement
from labshop.judge.history import History, Operation, by_product
from labshop.judge.readings import Reading, readings_of
from labshop.judge.requests import Name, Request, Sighting, requests_of, sightings_of


class Evidence:
    """A history, read once."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.requests = requests_of(history)
        self.audits = tuple(audit for audit in history.of("audit") if audit.outcome == "ok")
        self._sightings = sightings_of(self.audits)

    @property
    def stock(self) -> Mapping[int, int]:
        """Units on sale at the beginning, by product; nothing else is judged."""
        return self.history.sale.stock

    @cached_property
    def readings(self) -> tuple[Reading, ...]:
        """What was seen of the products on sale."""
        return tuple(r for r in readings_of(self.history) if r.product in self.stock)

    @cached_property
    def movements(self) -> dict[int, list[Movement]]:
        """All movements of each product on sale."""
        moves = [*self._purchases(), *self._cancellations(), *_restocks(self.history)]
        found: dict[int, list[Movement]] = {product: [] for product in self.stock}
        for move in moves:
            if move.product in found:
                found[move.product].append(move)
        return found

    @cached_property
    def flows(self) -> dict[int, Flow]:
        """How each product's stock has changed."""
        return {product: Flow(moves) for product, moves in self.movements.items()}

    @cached_property
    def ordered(self) -> dict[int, Flow]:
        """How orders alone have changed it."""
        return {
            product: Flow(move for move in moves if move.buyer is not None)
            for product, moves in self.movements.items()
        }

    @cached_property
    def restocked(self) -> dict[int, Flow]:
        """How restocks alone have changed it."""
        return {
            product: Flow(move for move in moves if move.buyer is None)
            for product, moves in self.movements.items()
        }

    def least_available(self, product: int, from_ms: float, to_ms: float) -> int:
        """The lowest stock that any order of effects allows at some moment of an interval."""
        return self.stock[product] + self.flows[product].least(from_ms, to_ms)

    def most_available(self, product: int, from_ms: float, to_ms: float) -> int:
        """The highest stock that any order of effects allows at some moment of an interval."""
        return self.stock[product] + self.flows[product].most(from_ms, to_ms)

    def is_disturbed(self, operation: Operation) -> bool:
        """Whether a fault was there while it was under way: then its failure may be the fault's.

        A circuit breaker that is not closed counts as one, for it opens after a fault and stays
        open for a while when the fault is over.
        """
        ended_ms = math.inf if operation.ended_ms is None else operation.ended_ms
        return any(
            began_ms <= ended_ms and until_ms >= operation.invoked_ms
            for began_ms, until_ms in self._disturbances
        )

    @cached_property
    def _disturbances(self) -> tuple[tuple[float, float], ...]:
        spans = [
            (fault.began_ms, math.inf if fault.ended_ms is None else fault.ended_ms)
            for fault in self.history.faults
        ]
        since: dict[tuple[str, str], float] = {}
        for change in self.history.breakers:
            if change.state != "closed":
                since.setdefault((change.process, change.name), change.at_ms)
            elif (change.process, change.name) in since:
                spans.append((since.pop((change.process, change.name)), change.at_ms))
        return (*spans, *((began_ms, math.inf) for began_ms in since.values()))

    def sightings(self, names: frozenset[Name]) -> list[Sighting]:
        """Every listing of an order in an audit, the earliest first."""
        found = {
            (sighting.audit.id, sighting.order): sighting
            for name in sorted(names)
            for sighting in self._sightings.get(name, ())
        }
        return sorted(found.values(), key=lambda sighting: sighting.audit.latest_ms)

    def is_absent(self, request: Request) -> bool:
        """Whether an audit of a settled shop proves that a request booked nothing.

        It does so only of an order that it would have shown: a request that has neither a key
        nor an order id could stand there under any name, and a cancelled order may be left out.
        """
        if any(name[0] == "order" and name[1] in self._cancels for name in request.names):
            return False
        named = all(a.order_id is not None for a in request.attempts if a.outcome != "fail")
        keyed = request.key is not None and request.user is not None
        return any(
            request.ended_ms < began_ms and (named or (keyed and lists_keys))
            for began_ms, lists_keys in self._settled
        )

    @cached_property
    def _settled(self) -> list[tuple[float, bool]]:
        """When each audit of a settled shop began, and whether it lists users and keys."""
        return [
            (audit.invoked_ms, all("key" in row and "user" in row for row in rows))
            for audit in self.audits
            if audit.args.get("settled") and (rows := audit.result.get("orders")) is not None
        ]

    @cached_property
    def _cancels(self) -> dict[str, list[Operation]]:
        """Cancellations that may have happened, by order."""
        cancels: dict[str, list[Operation]] = defaultdict(list)
        for cancel in self.history.of("cancel"):
            if cancel.outcome != "fail" and cancel.order_id is not None:
                cancels[cancel.order_id].append(cancel)
        return cancels

    def may_be_cancelled(self, order: str, by_ms: float) -> bool:
        """Whether somebody asked to cancel an order before a moment."""
        return any(cancel.invoked_ms <= by_ms for cancel in self._cancels.get(order, ()))

    def _purchases(self) -> Iterator[Movement]:
        for request in self.requests:
            answers, seen = list(request.answers.values()), self.sightings(request.names)
            for number, answer in enumerate(answers):
                shown = (answer,) if number else request.shown_by(answer)
                yield from _taking(request, answer.lines, shown, answer.latest_ms)
            if not answers and seen:
                shown = (request.attempts[0], seen[0].alone())
                lines = seen[0].lines or request.attempts[0].lines
                yield from _taking(request, lines, shown, seen[0].audit.latest_ms)
            elif not answers and not self.is_absent(request):
                for attempt in request.attempts:
                    if attempt.outcome == "unknown":
                        yield from _taking(request, attempt.lines, (attempt,), math.inf)

    def _cancellations(self) -> Iterator[Movement]:
        strangers = dict(self._cancels)
        for request in self.requests:
            for order, lines in self._booked(request).items():
                cancels = strangers.pop(order, [])
                seen = self.sightings(frozenset({("order", order)}))
                struck = next((sighting for sighting in seen if sighting.is_cancelled), None)
                yield from _returning(request.buyer, lines, cancels, struck, request.attempts[0])
        for cancels in strangers.values():
            yield from self._cancelled_strangers(cancels)

    def _booked(self, request: Request) -> dict[str, dict[int, int]]:
        """The orders that a request has made, or may have made, and what they hold."""
        booked = {a.order_id: a.lines for a in request.attempts if a.outcome == "unknown"}
        booked |= {s.order: s.lines for s in self.sightings(request.names) if s.lines}
        booked |= {order: answer.lines for order, answer in request.answers.items()}
        return {order: lines for order, lines in booked.items() if order}

    def _cancelled_strangers(self, cancels: list[Operation]) -> Iterator[Movement]:
        """Cancellations of an order that no answer names: it may be any without a name."""
        first = cancels[0]
        buyer = first.user or f"process {first.process}"
        lines = by_product(first.args.get("lines"))
        if lines:
            yield from _returning(buyer, lines, cancels, None, first)
            return
        nameless = (request for request in self.requests if not self._booked(request))
        for attempt, buyer in ((a, r.buyer) for r in nameless for a in r.attempts):
            if attempt.outcome != "fail":
                began_ms, shown = max(first.invoked_ms, attempt.invoked_ms), (attempt, first)
                for product, units in attempt.lines.items():
                    yield Movement(product, units, began_ms, math.inf, False, shown, buyer)


def _taking(
    request: Request, lines: Mapping[int, int], shown: tuple[Operation, ...], by_ms: float
) -> Iterator[Movement]:
    for product, units in lines.items():
        certain, from_ms = by_ms < math.inf, shown[0].invoked_ms
        yield Movement(product, -units, from_ms, by_ms, certain, shown, request.buyer)


def _returning(
    buyer: str,
    lines: Mapping[int, int],
    cancels: list[Operation],
    struck: Sighting | None,
    bought: Operation,
) -> Iterator[Movement]:
    """What a cancellation puts back, once; an audit that shows it as cancelled proves it, too."""
    proofs = [cancel for cancel in cancels if cancel.outcome == "ok"]
    proofs += [struck.alone()] if struck is not None else []
    if not proofs and not cancels:
        return
    from_ms = cancels[0].invoked_ms if cancels else bought.invoked_ms
    by_ms = min((proof.latest_ms for proof in proofs), default=math.inf)
    proof = min(proofs or cancels, key=lambda it: it.latest_ms)
    # Whoever reads this cancellation without its order still learns what was put back.
    told = {str(product): units for product, units in lines.items()}
    shown = [
        replace(c, args={**c.args, "lines": told}) for c in cancels if c in (cancels[0], proof)
    ]
    shown += [bought, proof] if proof not in cancels else []
    for product, units in lines.items():
        yield Movement(product, units, from_ms, by_ms, bool(proofs), tuple(shown), buyer)


def _restocks(history: History) -> Iterator[Movement]:
    for restock in history.of("restock"):
        if restock.outcome != "fail":
            product, units = int(restock.args["product"]), int(restock.args["units"])
            certain = restock.outcome == "ok"
            yield Movement(
                product, units, restock.invoked_ms, restock.latest_ms, certain, (restock,)
            )
