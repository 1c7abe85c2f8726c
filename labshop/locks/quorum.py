"""A claim on a majority of nodes: voting, holding, taking the votes back."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from labshop.clock import Clock
from labshop.locks.ballot import Ballot
from labshop.locks.claim import LOOK_AGAIN_MS, NotGranted, OnWait
from labshop.locks.connection import Node
from labshop.locks.errors import LockError, LockExpired, NodeDown, NoQuorum
from labshop.locks.keys import lock_key, queue_keys
from labshop.locks.turns import Visitor
from labshop.locks.wire import Part, Reply
from labshop.lua import load_script


@dataclass(frozen=True)
class Terms:
    """On which terms a quorum grants; see `Redlock`."""

    ttl_ms: int
    drift_ms: float
    quarantine_ms: int
    retry_ms: tuple[float, float]


class QuorumClaim:
    """One attempt to hold a key on a majority of nodes, and the holding of it."""

    def __init__(
        self,
        nodes: Sequence[Node],
        key: str,
        token: str,
        terms: Terms,
        clock: Clock,
        *,
        next_fence: Callable[[str], Awaitable[int]] | None,
    ) -> None:
        self.deadline_ms = 0.0
        self._nodes = nodes
        self._key = key
        self._token = token
        self._terms = terms
        self._clock = clock
        self._next_fence = next_fence
        self._keys = (lock_key(key), queue_keys(key)[1])
        self._turns = nodes[0].quorum_turns
        self._visitor: Visitor | None = None
        self._vote: Ballot | None = None
        self._asked: set[Node] = set()
        self._tries = 0
        self._sent_ms = 0.0
        self._waits = True

    async def take(self, wait_ms: float, on_wait: OnWait) -> int:
        """Vote until a majority agrees; returns the fencing token, 0 for none.

        Raises:
            NotGranted: others held it for as long as that. NoQuorum: too few nodes could vote.
            LockExpired: a majority agreed, and too late.
        """
        until_ms = self._clock.now_ms() + wait_ms
        self._waits = wait_ms > 0
        try:
            await self._take_turn(until_ms, on_wait)
            while True:
                try:
                    return await self._try()
                except (NotGranted, LockError):
                    if self._clock.now_ms() >= until_ms:
                        raise
                on_wait()
                await self._pause(until_ms)
        except BaseException:
            self._withdraw()
            raise
        finally:
            for node in self._nodes:
                node.forget(self._token)

    async def extend(self, ttl_ms: int) -> float | None:
        """See `labshop.locks.lease.Claim`; what comes after the old deadline is too late."""
        sent_ms = self._clock.now_ms()
        ballot = self._ballot("extend_locks", self._keys[:1], (self._word, ttl_ms))
        await ballot.decided
        ballot.end()
        if self._clock.now_ms() >= self.deadline_ms or len(ballot.no) >= ballot.quorum:
            return None
        if ballot.yes < ballot.quorum:
            raise self._no_quorum(ballot)
        drift_ms = self._terms.drift_ms * ttl_ms / self._terms.ttl_ms
        deadline_ms = sent_ms + ttl_ms - drift_ms
        self.deadline_ms = max(self.deadline_ms, deadline_ms)
        return deadline_ms

    def leave_turns(self) -> None:
        """See `labshop.locks.lease.Claim`."""
        if self._visitor is not None:
            self._turns.leave(self._visitor)
            self._visitor = None

    def abandon(self) -> None:
        """See `labshop.locks.lease.Claim`."""
        self._withdraw()

    async def release(self) -> bool:
        """See `labshop.locks.lease.Claim`; a majority of answers is enough."""
        ballot = self._withdraw()
        await ballot.decided
        if ballot.yes < ballot.quorum and len(ballot.no) < ballot.quorum:
            raise self._no_quorum(ballot)
        return ballot.yes >= ballot.quorum

    async def _take_turn(self, until_ms: float, on_wait: OnWait) -> None:
        self._visitor = self._turns.enter(self._key, self._ask)
        if self._visitor.turn is None:
            return
        on_wait()
        try:
            async with asyncio.timeout((until_ms - self._clock.now_ms()) / 1_000):
                await self._visitor.turn
        except TimeoutError:
            raise NotGranted from None

    async def _try(self) -> int:
        """One vote; it is taken back where it did not succeed."""
        vote = self._vote or self._ask()
        await vote.decided
        try:
            if vote.yes < vote.quorum:
                too_few = len(vote.failed) > len(vote.nodes) - vote.quorum
                raise self._no_quorum(vote) if too_few else NotGranted
            self.deadline_ms = self._sent_ms + self._terms.ttl_ms - self._terms.drift_ms
            self._look_at_the_clock()
            fence = await self._ask_for_fence()
            self._look_at_the_clock()
        except (NotGranted, LockError):
            self._take_back(waits=self._waits)
            raise
        return fence

    @property
    def _word(self) -> str:
        """What stands on the nodes for the newest vote."""
        return f"{self._token}.{self._tries}"

    def _look_at_the_clock(self) -> None:
        now_ms = self._clock.now_ms()
        if now_ms >= self.deadline_ms:
            raise LockExpired(self._key, self._terms.ttl_ms, now_ms - self._sent_ms)

    async def _ask_for_fence(self) -> int:
        if self._next_fence is None:
            return 0
        left_ms = self.deadline_ms - self._clock.now_ms()
        try:
            async with asyncio.timeout(left_ms / 1_000) as patience:
                return await self._next_fence(self._key)
        except TimeoutError:
            if not patience.expired():
                raise  # whoever gives out the tokens timed out
            raise LockExpired(self._key, self._terms.ttl_ms, self._terms.ttl_ms) from None

    def _ask(self) -> Ballot:
        """Ask all nodes for their vote, each time by another word.

        What undoes an earlier try may be late; it must not undo this one.
        """
        self._tries += 1
        self._sent_ms = self._clock.now_ms()
        self._wake_ups = [node.wake_up_call(self._token) for node in self._nodes]
        script = load_script("labshop.locks", "acquire_vote")

        def ask(node: Node) -> "asyncio.Future[Reply]":
            young_ms = node.young_for_ms(self._terms.quarantine_ms)
            if young_ms > 0:
                raise NodeDown(node.name, f"it has just started, and may vote in {young_ms:.0f} ms")
            channel = node.channel if self._waits else ""
            args = (self._word, self._terms.ttl_ms, self._token, channel)
            return node.send(script, self._keys, args)

        self._vote = Ballot(self._nodes, ask, lambda reply: bool(reply[0]))
        return self._vote

    def _take_back(self, *, waits: bool = False) -> Ballot:
        """Undo the vote on all nodes that were asked for one; it never suspends.

        Who `waits` for the next vote stays noted there, to be woken.
        """
        vote, self._vote = self._vote, None
        if vote is not None:
            vote.end()
            self._asked.update(vote.asked)
        asked = frozenset(self._asked)
        if not waits:
            self._asked.clear()
        script, word = load_script("labshop.locks", "release_vote"), self._word

        def ask(node: Node) -> "asyncio.Future[Reply]":
            if node not in asked:
                raise NodeDown(node.name, "it was not asked for its vote")
            return node.post(script, self._keys, (word, self._token, int(waits)))

        return Ballot(self._nodes, ask, bool, asks_at_once=True)

    def _withdraw(self) -> Ballot:
        """Undo the vote, and give the turn in this process to the next one."""
        ballot = self._take_back()
        self.leave_turns()
        return ballot

    async def _pause(self, until_ms: float) -> None:
        """A random time, or until whoever holds the lock has released it."""
        shortest_ms, longest_ms = self._terms.retry_ms
        left_ms = until_ms - self._clock.now_ms()
        pause_ms = random.uniform(shortest_ms, longest_ms)  # noqa: S311  # chance is no secret here
        with suppress(TimeoutError):
            async with asyncio.timeout(min(left_ms, LOOK_AGAIN_MS) / 1_000):
                await asyncio.wait(self._wake_ups, return_when=asyncio.FIRST_COMPLETED)
        await self._clock.sleep_ms(min(max(0.0, until_ms - self._clock.now_ms()), pause_ms))

    def _ballot(self, script: str, keys: Sequence[str], args: Sequence[Part]) -> Ballot:
        loaded = load_script("labshop.locks", script)
        return Ballot(self._nodes, lambda node: node.send(loaded, keys, args), bool)

    def _no_quorum(self, ballot: Ballot) -> NoQuorum:
        return NoQuorum(self._key, ballot.quorum, dict(ballot.failed))
