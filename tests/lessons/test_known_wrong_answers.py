"""The grader is graded: each classic wrong answer loses exactly the points that it should."""

from typing import Any

import pytest

from labshop.lab.grade import Lockish
from labshop.lab.lock_exercise import HINTS, PROPERTIES, ReferenceLock, check_lock
from labshop.locks import Node

OUT_OF = 10
ONE, ENDS, UNIT, FREES, LEAVES, TRUTH = PROPERTIES

COMPARE_AND_DELETE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


class Right:
    """The reference: one command to take, one script to free."""

    async def acquire(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        return bool(await node.command("SET", key, token, "NX", "PX", ttl_ms) == "OK")

    async def release(self, node: Any, key: str, token: str) -> bool:
        return bool(await node.command("EVAL", COMPARE_AND_DELETE, 1, key, token) == 1)


class NotWritten(Right):
    """The stub, as the learner finds it."""

    async def acquire(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        raise NotImplementedError

    async def release(self, node: Any, key: str, token: str) -> bool:
        raise NotImplementedError


class SetnxThenExpire(Right):
    """The title of this lesson, taken at its word: two commands."""

    async def acquire(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        if await node.command("SETNX", key, token) == 0:
            return False
        await node.command("PEXPIRE", key, ttl_ms)
        return True


class NoEnd(Right):
    """No time to live at all."""

    async def acquire(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        return bool(await node.command("SET", key, token, "NX") == "OK")


class Seconds(Right):
    """Milliseconds given to an option that takes seconds."""

    async def acquire(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        return bool(await node.command("SET", key, token, "NX", "EX", ttl_ms) == "OK")


class Takes(Right):
    """SET without NX: whoever comes last has it."""

    async def acquire(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        return bool(await node.command("SET", key, token, "PX", ttl_ms) == "OK")


class Deaf(Right):
    """The reply of SET is not looked at."""

    async def acquire(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        await node.command("SET", key, token, "NX", "PX", ttl_ms)
        return True


class LookThenSet(Right):
    """GET, and SET if there was nothing: in two commands."""

    async def acquire(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        if await node.command("GET", key) is not None:
            return False
        await node.command("SET", key, token, "PX", ttl_ms)
        return True


class PlainDel(Right):
    """DEL without a look at whose it is."""

    async def release(self, node: Any, key: str, token: str) -> bool:
        return bool(await node.command("DEL", key) == 1)


class GetCompareDel(Right):
    """The look and the DEL are two commands."""

    async def release(self, node: Any, key: str, token: str) -> bool:
        if await node.command("GET", key) != token:
            return False
        return bool(await node.command("DEL", key) == 1)


class NeverFrees(Right):
    """Release does nothing."""

    async def release(self, node: Any, key: str, token: str) -> bool:
        return False


class SaysYes(Right):
    """Release is right, and always claims success."""

    async def release(self, node: Any, key: str, token: str) -> bool:
        await super().release(node, key, token)
        return True


class NoToken(Right):
    """Every holder writes the same word."""

    async def acquire(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        return await super().acquire(node, key, "locked", ttl_ms)

    async def release(self, node: Any, key: str, token: str) -> bool:
        return await super().release(node, key, "locked")


class DoesNothing(Right):
    """Says yes, and never talks to Redis."""

    async def acquire(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        return True

    async def release(self, node: Any, key: str, token: str) -> bool:
        return True


class RoundsDown(Right):
    """Whole seconds, rounded down."""

    async def acquire(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        seconds = max(1, ttl_ms // 1_000)
        return bool(await node.command("SET", key, token, "NX", "EX", seconds) == "OK")


class RawReplies(Right):
    """Gives back what Redis said, not True and False."""

    async def acquire(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        reply: bool = await node.command("SET", key, token, "NX", "PX", ttl_ms)
        return reply


class ByName(Right):
    """Options by name, as redis-py has them."""

    async def acquire(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        return bool(await node.command("SET", key, token, nx=True, px=ttl_ms))


class Crashes(Right):
    """Fails with an error of its own."""

    async def release(self, node: Any, key: str, token: str) -> bool:
        raise KeyError(key)


class Endless(Right):
    """Waits inside acquire, by asking for ever."""

    async def acquire(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        while not await super().acquire(node, key, token, ttl_ms):
            pass
        return True


@pytest.mark.parametrize(
    ("answer", "lost"),
    [
        (Right, set()),
        (ReferenceLock, set()),
        (DoesNothing, set(PROPERTIES)),
        (RawReplies, set(PROPERTIES)),
        (ByName, set(PROPERTIES)),
        (RoundsDown, {UNIT}),
        (SetnxThenExpire, {ENDS}),
        (NoEnd, {ENDS, UNIT}),
        (Seconds, {UNIT}),
        (Takes, {ONE}),
        (Deaf, {ONE}),
        (LookThenSet, {ONE}),
        (PlainDel, {LEAVES, TRUTH}),
        (GetCompareDel, {LEAVES}),
        (NeverFrees, {FREES}),
        (SaysYes, {TRUTH}),
        (NoToken, {ONE, LEAVES, TRUTH}),
        (Crashes, {FREES, LEAVES, TRUTH}),
        (Endless, {ONE}),
    ],
)
async def test_a_wrong_answer_loses_exactly_its_points(
    node: Node, answer: type[Lockish], lost: set[str]
) -> None:
    """Each mistake costs the properties that it breaks, and no other."""
    grade = await check_lock(answer(), node)

    assert {f.name for f in grade.findings if f.outcome != "PASS"} == lost, str(grade)
    assert grade.points == OUT_OF - sum(PROPERTIES[name][0] for name in lost)
    assert grade.finished == (not lost)


async def test_an_unwritten_exercise_is_to_do_and_not_wrong(node: Node) -> None:
    """The stub earns nothing, and is called TODO in every property."""
    grade = await check_lock(NotWritten(), node)

    assert {f.outcome for f in grade.findings} == {"TODO"}
    assert (grade.points, grade.out_of, grade.first_failure) == (0, OUT_OF, None)


async def test_a_failure_has_a_reason_and_never_the_answer(node: Node) -> None:
    """The reason names what happened; the commands of the reference are not in it."""
    grade = await check_lock(GetCompareDel(), node)

    failure = grade.first_failure
    assert failure is not None
    assert "Ada paused before command 2 of release (DEL)" in failure.reason
    assert failure.story
    assert "EVAL" not in failure.reason
    assert set(HINTS) == set(PROPERTIES)
