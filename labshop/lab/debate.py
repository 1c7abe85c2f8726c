"""A dispute about a lock, claim by claim: who said it, and what real processes said to it.

The problem: two experts disagree, and each is right about something else. The idea: every claim
becomes a duel of clients on real nodes, whose interleaving is forced, and whose leases are recorded
for the judge and for a timeline. What was seen goes into one table.

It does not promise that a claim which held once holds always; a claim that broke once is broken.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Any, Self

from IPython.display import Markdown, display

from labshop.judge.checker import check
from labshop.judge.history import History, LockRecord
from labshop.judge.leases import EXCLUSIVE
from labshop.lab.story import Story
from labshop.locks import HeldLease, LockError, LockEvent, Node, Redlock
from labshop.locks.base import LockEventHook, LockEventKind
from labshop.stack.faults.network import Network

LOCK_NODES = ("lock-1", "lock-2", "lock-3", "lock-4", "lock-5")
SETTLE_S = 20.0

_numbers = count(1)


@contextmanager
def reaching(network: Network, client: str, *servers: int) -> Iterator[None]:
    """Let a client reach these of the five masters only; the others are dead to it."""
    others = [name for number, name in enumerate(LOCK_NODES, 1) if number not in servers]
    with network.refused(client=client, server=others):
        yield


async def until_all_vote(nodes: Sequence[Node], quarantine_ms: int) -> None:
    """Wait until no node is too young to vote, for this client."""
    async with asyncio.timeout(SETTLE_S):
        for node in nodes:
            while not await _votes(node, quarantine_ms):  # noqa: ASYNC110  # another process' event
                await asyncio.sleep(0.01)


async def _votes(node: Node, quarantine_ms: int) -> bool:
    try:
        await node.command("PING")
    except LockError:
        return False
    return node.young_for_ms(quarantine_ms) <= 0


@dataclass
class Duel:
    """Clients who want the same lock on five nodes; their leases end with the body.

    Args:
        ttl_ms: of every lease.
        options: of each `Redlock`. No node is too young to vote unless they say so.
    """

    ttl_ms: int
    options: dict[str, Any] = field(default_factory=dict)
    story: Story = field(default_factory=Story)
    leases: dict[str, HeldLease] = field(default_factory=dict)
    errors: dict[str, LockError] = field(default_factory=dict)
    """Why each client that did not get the lock did not."""
    believed: list[str] = field(default_factory=list)
    """Who held the lock by their own clock when the body ended."""
    judged: str = ""
    """What the judge said of the leases when the body ended."""

    def __post_init__(self) -> None:
        self.key = f"duel-{next(_numbers)}"
        self._records: list[LockRecord] = []

    def lock(self, client: str, nodes: Sequence[Node], **options: Any) -> Redlock:
        """The lock as this client sees it."""
        terms = {"quarantine_ms": 0, **self.options, **options}
        return Redlock(nodes, self.key, ttl_ms=self.ttl_ms, on_event=self._hook(client), **terms)

    async def ask(
        self, client: str, nodes: Sequence[Node], *, wait_ms: float = 0, **options: Any
    ) -> HeldLease | None:
        """Let a client try to acquire; None if it did not, and `errors` says why."""
        try:
            lease = await self.lock(client, nodes, **options).acquire(wait_ms=wait_ms)
        except LockError as error:
            self.errors[client] = error
            self.story.note(client, "refused", type(error).__name__)
            return None
        self.leases[client] = lease
        return lease

    @property
    def believers(self) -> list[str]:
        """Who, by their own clock, hold the lock at this moment."""
        return [
            client
            for client, lease in self.leases.items()
            if lease.remaining_ms() > 0 and not (lease.lost.is_set() or lease.holding.is_released)
        ]

    def count(self, kind: LockEventKind) -> int:
        """How often this has happened so far."""
        return sum(record.event == kind for record in self._records)

    def verdict(self) -> str:
        """What the judge says of the leases so far."""
        verdict = check(History(locks=tuple(self._records)), [EXCLUSIVE])
        if verdict.outcome != "INVALID":
            return f"{verdict.outcome}: never two at once"
        tokens = verdict.violations[0].culprits
        names = [next(r.process for r in self._records if r.token == it) for it in tokens]
        return f"{verdict.outcome}: {' and '.join(names)} held the lock at once"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.believed, self.judged = self.believers, self.verdict()
        for client in self.leases:
            self.story.end(client)
        for lease in self.leases.values():
            await lease.holding.end()

    def _hook(self, client: str) -> LockEventHook:
        drawn = self.story.lock_events(client)

        def hook(event: LockEvent) -> None:
            drawn(event)
            record = LockRecord(
                event.at_ms, client, event.kind, event.key, event.token, event.fence, event.until_ms
            )
            self._records.append(record)

        return hook


@dataclass
class Debate:
    """The table of claims."""

    rows: dict[str, tuple[str, str, str, str]] = field(default_factory=dict)

    def saw(self, number: str, claim: str, *, who: str, verdict: str, seen: str) -> None:
        """Enter a claim: who makes it, whether it held, and what was seen."""
        self.rows[number] = (claim, who, verdict, seen)
        print(f"{number}: {verdict}. {seen[0].upper()}{seen[1:]}.")

    def show(self) -> None:
        """Display the table, in the order of the claims' numbers."""
        lines = ["| | claim | who | verdict | what we saw |", "|---|---|---|---|---|"]
        numbers = sorted(self.rows, key=lambda number: int(number[1:]))
        lines += [f"| {number} | {' | '.join(self.rows[number])} |" for number in numbers]
        display(Markdown("\n".join(lines)))  # type: ignore[no-untyped-call]
