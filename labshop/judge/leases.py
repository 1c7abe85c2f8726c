"""The properties of locks: leases exclude each other, fences grow, a half-open breaker probes.

A lease is what its holder may believe, by the holder's own clock: from the moment at which it was
told that it has the lock until its deadline, or until it asked for the release, if that came
first. Two such claims on one key must never overlap. A holder that is *paused* beyond its deadline
claims nothing; if it writes all the same, that is a stale write, which a fence exposes.
"""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from labshop.judge.evidence import Evidence
from labshop.judge.history import BreakerRecord, History, LockRecord, Operation, Sale
from labshop.judge.verdict import Violation

EXCLUSIVE, FENCES, ONE_PROBE = "exclusive-leases", "no-stale-fence", "one-probe"
GRANTS = ("acquired", "extended")
"""The events of a lock by which a claim begins or is prolonged."""


@dataclass(frozen=True)
class Claim:
    """One lease, as its holder may believe in it."""

    key: str
    token: str
    process: str
    fence: int
    asked_ms: float
    from_ms: float
    until_ms: float
    records: tuple[LockRecord, ...]


def claims_of(history: History) -> list[Claim]:
    """All leases of a history, in the order in which their holders were told of them."""
    by_token: dict[tuple[str, str], list[list[LockRecord]]] = defaultdict(list)
    for record in sorted(history.locks, key=lambda record: record.at_ms):
        leases = by_token[record.key, record.token]
        # A program may use its token again: each time that it acquires is a lease of its own.
        if record.event == "acquired":
            leases.append([record])
        elif leases:
            leases[-1].append(record)
    claims = [_claim(records) for leases in by_token.values() for records in leases]
    return sorted(claims, key=lambda claim: claim.from_ms)


def _claim(records: list[LockRecord]) -> Claim:
    first = records[0]
    deadline_ms = max(r.until_ms for r in records if r.event in GRANTS)
    # A release that is asked for after the deadline ends nothing; without the moment at which it
    # was asked for, that of its event is the latest.
    ends = [r.until_ms or r.at_ms for r in records if r.event not in GRANTS]
    return Claim(
        key=first.key,
        token=first.token,
        process=first.process,
        fence=first.fence,
        asked_ms=first.at_ms if first.asked_ms is None else first.asked_ms,
        from_ms=first.at_ms,
        until_ms=min([deadline_ms, *ends]),
        records=tuple(records),
    )


def exclusive_leases(evidence: Evidence) -> Iterator[Violation]:
    """No two leases on one key are believed in at the same moment."""
    latest: dict[str, Claim] = {}
    for claim in claims_of(evidence.history):
        if claim.until_ms <= claim.from_ms:
            # Whoever is told of a lease after its deadline never believes in it.
            continue
        earlier = latest.get(claim.key)
        if earlier is not None and claim.from_ms < earlier.until_ms:
            overlap_ms = min(earlier.until_ms, claim.until_ms) - claim.from_ms
            reason = (
                f"{earlier.process} and {claim.process} both held {claim.key} "
                f"for {overlap_ms:.1f} ms"
            )
            yield _of_claims(EXCLUSIVE, reason, evidence, (earlier, claim))
        if earlier is None or claim.until_ms > earlier.until_ms:
            latest[claim.key] = claim


def no_stale_fence(evidence: Evidence) -> Iterator[Violation]:
    """A later lease has a larger fence, and no store takes a write with an older one."""
    yield from _repeated_fences(evidence)
    yield from _stale_writes(evidence)


def one_probe(evidence: Evidence) -> Iterator[Violation]:
    """While a breaker is half open, one call at a time tries whether the other side is back.

    A breaker is known by its name alone: its changes are often caused by another buyer's call
    than the probes. So two processes that have a breaker each must name them differently.
    """
    for name, begin_ms, end_ms in _half_open(evidence.history.breakers):
        probes = [
            call
            for call in evidence.history.of("probe")
            if call.args.get("name") == name and begin_ms <= call.invoked_ms < end_ms
        ]
        probes.sort(key=lambda call: call.invoked_ms)
        for first, second in pairwise(probes):
            if second.invoked_ms < first.latest_ms:
                reason = (
                    f"the half-open breaker {name} let {second.process} through while the call "
                    f"of {first.process} was still trying"
                )
                changes = [c for c in evidence.history.breakers if c.name == name]
                opened = [c for c in changes if c.state == "half_open" and c.at_ms == begin_ms]
                witness = History(operations=(first, second), breakers=tuple(opened[:1]))
                yield Violation(ONE_PROBE, reason, witness, (first.id, second.id))
                break


def _repeated_fences(evidence: Evidence) -> Iterator[Violation]:
    """Two leases with one fence, or a fence that is smaller than that of a lease before it.

    Which lease came first is certain where one was asked for after the other had been granted;
    and also where the later one was still valid when its holder was told of it: it cannot have
    been granted before the other, or the two would have overlapped.
    """
    by_key: dict[str, list[Claim]] = defaultdict(list)
    for claim in claims_of(evidence.history):
        if claim.fence:
            by_key[claim.key].append(claim)
    for claims in by_key.values():
        for earlier, claim in _out_of_order(claims):
            reason = (
                f"{claim.process} got fence {claim.fence} on {claim.key} after "
                f"{earlier.process} had got {earlier.fence}"
            )
            yield _of_claims(FENCES, reason, evidence, (earlier, claim))


def _out_of_order(claims: list[Claim]) -> Iterator[tuple[Claim, Claim]]:
    begun = [claim.from_ms for claim in claims]
    highest = list(accumulate(claims, _higher))
    holders: dict[int, Claim] = {}
    for claim in claims:
        is_valid = claim.until_ms > claim.from_ms
        before = bisect_left(begun, claim.from_ms if is_valid else claim.asked_ms)
        twin = holders.setdefault(claim.fence, claim)
        if twin.token != claim.token:
            yield twin, claim
        elif before and highest[before - 1].fence > claim.fence:
            yield highest[before - 1], claim


def _higher(one: Claim, other: Claim) -> Claim:
    return other if other.fence > one.fence else one


def _stale_writes(evidence: Evidence) -> Iterator[Violation]:
    """Writes that a later holder's write should have barred; the ledger's sequence orders them.

    Fences are compared only where one counter has given them: the fences that the writes carried,
    or those of leases on one and the same key.
    """
    claims = _claims_by_call(evidence.history)
    writes: dict[tuple[int, str], list[tuple[int, int, Operation]]] = defaultdict(list)
    for request in evidence.requests:
        for answer in request.answers.values():
            sequence, (counter, fence) = answer.result.get("sequence"), _fence_of(answer, claims)
            if sequence is not None and fence:
                for product in answer.lines:
                    writes[product, counter].append((int(sequence), fence, answer))
    for (product, _), written in writes.items():
        newest: tuple[int, Operation] | None = None
        for _, fence, answer in sorted(written, key=lambda write: write[0]):
            if newest is not None and fence < newest[0]:
                reason = (
                    f"{answer.process} wrote to product {product} with fence {fence} after "
                    f"{newest[1].process} had written with {newest[0]}"
                )
                operations = sorted((newest[1], answer), key=lambda write: write.invoked_ms)
                held = [r for o in operations for c in claims.get(o.id, ()) for r in c.records]
                locks = tuple(sorted(held, key=lambda record: record.at_ms))
                witness = History(operations=tuple(operations), locks=locks)
                yield Violation(FENCES, reason, witness, tuple(o.id for o in operations))
            elif newest is None or fence > newest[0]:
                newest = fence, answer


def _claims_by_call(history: History) -> dict[str, list[Claim]]:
    by_call: dict[str, list[Claim]] = defaultdict(list)
    for claim in claims_of(history):
        operation = claim.records[0].operation
        if operation is not None:
            by_call[operation].append(claim)
    return by_call


def _fence_of(answer: Operation, claims: dict[str, list[Claim]]) -> tuple[str, int]:
    """The fence of a write and the counter it is from: what it carried, or that of its lease."""
    carried = int(answer.result.get("fence") or 0)
    held = claims.get(answer.id, [])
    if carried or len({claim.key for claim in held}) != 1:
        return "", carried
    return held[-1].key, held[-1].fence


def _of_claims(name: str, reason: str, evidence: Evidence, claims: tuple[Claim, ...]) -> Violation:
    records = [record for claim in claims for record in claim.records]
    calls = {record.operation for record in records}
    operations = tuple(o for o in evidence.history.operations if o.id in calls)
    locks = tuple(sorted(records, key=lambda record: record.at_ms))
    witness = History(Sale(), operations, locks)
    return Violation(name, reason, witness, tuple(claim.token for claim in claims))


def _half_open(changes: tuple[BreakerRecord, ...]) -> Iterator[tuple[str, float, float]]:
    """Each span in which a breaker was half open."""
    since: dict[str, float] = {}
    for change in sorted(changes, key=lambda change: change.at_ms):
        if change.state == "half_open":
            since.setdefault(change.name, change.at_ms)
        elif change.name in since:
            yield change.name, since.pop(change.name), change.at_ms
    for name, begin_ms in since.items():
        yield name, begin_ms, math.inf
