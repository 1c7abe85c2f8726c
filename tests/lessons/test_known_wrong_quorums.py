"""The grader of lesson 3 is graded: each wrong quorum loses exactly the points that it should."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from labshop.lab.quorum_exercise import (
    PROPERTIES,
    QuorumLockish,
    ReferenceQuorum,
    check_quorum,
)
from labshop.lab.quorum_hints import HINTS
from labshop.locks import Node, NodeError
from labshop.stack.nodes import ServerNode

OUT_OF = 12
MAJORITY, AT_ONCE, NOTHING, LATE, LEFT, ENDS, OWN, WALL = PROPERTIES

COMPARE_AND_DELETE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


@pytest.fixture
async def nodes(either_server: ServerNode) -> AsyncIterator[list[Node]]:
    """Five nodes that know nothing of each other: the databases of one server."""
    five = [Node(f"{either_server.url}/{number}", timeout_ms=2_000) for number in range(1, 6)]
    yield five
    for node in five:
        await node.close()


class Right:
    """Ask all, count, look at the clock; take back where it was not enough."""

    quorum, factor, constant_ms, per_second = 3, 0.01, 2.0, 1_000.0

    async def acquire(
        self, nodes: Sequence[Any], key: str, token: str, ttl_ms: int
    ) -> float | None:
        began = self.now()
        votes = sum(await asyncio.gather(*(self.vote(it, key, token, ttl_ms) for it in nodes)))
        elapsed = (self.now() - began) * self.per_second
        validity_ms = ttl_ms - elapsed - (ttl_ms * self.factor + self.constant_ms)
        if votes >= self.quorum and validity_ms > 0:
            return validity_ms
        await self.take_back(nodes, key, token)
        return None

    def now(self) -> float:
        return time.monotonic()

    async def vote(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        try:
            return bool(await node.command("SET", key, token, "NX", "PX", ttl_ms) == "OK")
        except NodeError:
            return False

    async def take_back(self, nodes: Sequence[Any], key: str, token: str) -> None:
        await self.release(nodes, key, token)

    async def release(self, nodes: Sequence[Any], key: str, token: str) -> None:
        await asyncio.gather(*(self.free(node, key, token) for node in nodes))

    async def free(self, node: Any, key: str, token: str) -> None:
        try:
            await node.command("EVAL", COMPARE_AND_DELETE, 1, key, token)
        except NodeError:
            return


class NotWritten(Right):
    """The stub, as the learner finds it."""

    async def acquire(self, *_: Any) -> float | None:
        raise NotImplementedError

    async def release(self, *_: Any) -> None:
        raise NotImplementedError


class TwoAreEnough(Right):
    """Half of five, rounded down."""

    quorum = 2


class AllMustAgree(Right):
    """Five of five: one dead node, and nobody gets it."""

    quorum = 5


class OneByOne(Right):
    """Each node is asked when the one before has answered."""

    async def acquire(
        self, nodes: Sequence[Any], key: str, token: str, ttl_ms: int
    ) -> float | None:
        began = self.now()
        votes = 0
        for node in nodes:
            votes += await self.vote(node, key, token, ttl_ms)
        validity_ms = ttl_ms - (self.now() - began) * 1_000 - ttl_ms * 0.01 - 2
        if votes >= self.quorum and validity_ms > 0:
            return validity_ms
        await self.release(nodes, key, token)
        return None


class StopsAtTheDead(Right):
    """An error of one node is an error of the whole."""

    async def vote(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        return bool(await node.command("SET", key, token, "NX", "PX", ttl_ms) == "OK")


class KeepsItsVotes(Right):
    """A minority is left where it was granted."""

    async def take_back(self, nodes: Sequence[Any], key: str, token: str) -> None:
        return


class TakesBackWhatItKnows(Right):
    """Votes are taken back only where the answer came."""

    async def acquire(
        self, nodes: Sequence[Any], key: str, token: str, ttl_ms: int
    ) -> float | None:
        began = self.now()
        votes = await asyncio.gather(*(self.vote(it, key, token, ttl_ms) for it in nodes))
        validity_ms = ttl_ms - (self.now() - began) * 1_000 - ttl_ms * 0.01 - 2
        if sum(votes) >= self.quorum and validity_ms > 0:
            return validity_ms
        granted = [node for node, vote in zip(nodes, votes, strict=True) if vote]
        await self.release(granted, key, token)
        return None


class SecondsForMilliseconds(Right):
    """The roadmap's sample: a difference of seconds, taken from milliseconds."""

    per_second = 1.0


class NoDrift(Right):
    """Clocks that never run apart."""

    factor, constant_ms = 0.0, 0.0


class NoClock(Right):
    """The whole time to live, however long asking took."""

    per_second = 0.0


class SaysTrue(Right):
    """Whether, and not how long."""

    async def acquire(self, *args: Any) -> float | None:
        return await super().acquire(*args) is not None or None


class StartsTooLate(Right):
    """The clock is looked at when the answers are there."""

    async def acquire(
        self, nodes: Sequence[Any], key: str, token: str, ttl_ms: int
    ) -> float | None:
        votes = sum(await asyncio.gather(*(self.vote(it, key, token, ttl_ms) for it in nodes)))
        if votes >= self.quorum:
            return ttl_ms - ttl_ms * 0.01 - 2
        await self.release(nodes, key, token)
        return None


class WallClock(Right):
    """The clock of the wall."""

    def now(self) -> float:
        return time.time()


class SetnxThenExpire(Right):
    """Two commands for a key and its end."""

    async def vote(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        try:
            if await node.command("SETNX", key, token) == 0:
                return False
            await node.command("PEXPIRE", key, ttl_ms)
        except NodeError:
            return False
        return True


class Seconds(Right):
    """Milliseconds given to an option that takes seconds."""

    async def vote(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        try:
            return bool(await node.command("SET", key, token, "NX", "EX", ttl_ms) == "OK")
        except NodeError:
            return False


class Takes(Right):
    """SET without NX: whoever comes last has it."""

    async def vote(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        try:
            return bool(await node.command("SET", key, token, "PX", ttl_ms) == "OK")
        except NodeError:
            return False


class PlainDel(Right):
    """DEL without a look at whose it is."""

    async def free(self, node: Any, key: str, token: str) -> None:
        try:
            await node.command("DEL", key)
        except NodeError:
            return


class GetCompareDel(Right):
    """The look and the DEL are two commands."""

    async def free(self, node: Any, key: str, token: str) -> None:
        try:
            if await node.command("GET", key) == token:
                await node.command("DEL", key)
        except NodeError:
            return


class ReleasesAMajority(Right):
    """Three nodes are enough to take, so three should be enough to free."""

    async def release(self, nodes: Sequence[Any], key: str, token: str) -> None:
        await super().release(nodes[:3], key, token)

    async def take_back(self, nodes: Sequence[Any], key: str, token: str) -> None:
        await super().release(nodes, key, token)


class ByName(Right):
    """Options by name, as redis-py has them; and any error is a no."""

    async def vote(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        try:
            return bool(await node.command("SET", key, token, nx=True, px=ttl_ms))
        except Exception:  # noqa: BLE001  # as a learner may write it
            return False


class Endless(Right):
    """Waits inside acquire, by asking for ever."""

    async def acquire(self, *args: Any) -> float | None:
        while (validity_ms := await super().acquire(*args)) is None:
            pass
        return validity_ms


@pytest.mark.parametrize(
    ("answer", "lost"),
    [
        (Right, set()),
        (ReferenceQuorum, set()),
        (TwoAreEnough, {MAJORITY, NOTHING}),
        (AllMustAgree, {MAJORITY, NOTHING}),
        (OneByOne, {AT_ONCE}),
        (StopsAtTheDead, {MAJORITY, NOTHING}),
        (KeepsItsVotes, {MAJORITY, NOTHING, LATE}),
        (TakesBackWhatItKnows, {NOTHING}),
        (SecondsForMilliseconds, {LATE, LEFT, WALL}),
        (NoDrift, {LEFT}),
        (NoClock, {LATE, LEFT, WALL}),
        (StartsTooLate, {LATE, LEFT, WALL}),
        (WallClock, {WALL}),
        (SetnxThenExpire, {ENDS}),
        (Seconds, {ENDS}),
        (Takes, {NOTHING}),
        (PlainDel, {NOTHING, OWN}),
        (GetCompareDel, {NOTHING, OWN}),
        (ReleasesAMajority, {OWN}),
        (SaysTrue, {MAJORITY, NOTHING, LEFT, WALL}),
        (ByName, set(PROPERTIES) - {OWN}),
        (Endless, {MAJORITY, NOTHING, LATE, WALL}),
    ],
)
async def test_a_wrong_quorum_loses_exactly_its_points(
    nodes: list[Node], answer: type[QuorumLockish], lost: set[str]
) -> None:
    """Each mistake costs the properties that it breaks, and no other."""
    grade = await check_quorum(answer(), nodes)

    assert {f.name for f in grade.findings if f.outcome != "PASS"} == lost, str(grade)
    assert grade.points == OUT_OF - sum(PROPERTIES[name][0] for name in lost)
    assert grade.finished == (not lost)


async def test_an_unwritten_quorum_is_to_do_and_not_wrong(nodes: list[Node]) -> None:
    """The stub earns nothing, and is called TODO in every property."""
    grade = await check_quorum(NotWritten(), nodes)

    assert {f.outcome for f in grade.findings} == {"TODO"}
    assert (grade.points, grade.out_of, grade.first_failure) == (0, OUT_OF, None)


async def test_a_failure_has_a_reason_and_never_the_answer(nodes: list[Node]) -> None:
    """The reason names what happened; the commands of the reference are not in it."""
    grade = await check_quorum(TakesBackWhatItKnows(), nodes)

    failure = grade.first_failure
    assert failure is not None
    assert "which hung, and carried out the SET when it woke" in failure.reason
    assert failure.story
    assert "EVAL" not in failure.reason
    assert set(HINTS) == set(PROPERTIES)
