"""The exercise of lesson 1: acquire and release, graded property by property."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from labshop.lab.grade import (
    Broken,
    Grade,
    Lockish,
    ProcessEndedError,
    Tap,
    grade,
)
from labshop.lab.lanes import Bar, Point
from labshop.locks import Node
from labshop.lua import load_script

KEY = "exercise:lock"
TTL_MS = 2_500
"""Not a whole number of seconds, so that seconds cannot pass for milliseconds."""
SLACK_MS = 400
FINISH_S = 60.0

Property = Callable[[Lockish, Node], Awaitable[None]]


class ReferenceLock:
    """The heart of stage v1's lock in the shape of the exercise, for who goes on without one."""

    async def acquire(self, node: Any, key: str, token: str, ttl_ms: int) -> bool:
        """Take the lock, as `labshop.locks.SingleLock` does where nobody waits."""
        return bool(await node.command("SET", key, token, "NX", "PX", ttl_ms))

    async def release(self, node: Any, key: str, token: str) -> bool:
        """Free the lock, as `labshop.locks.SingleLock` does."""
        script = load_script("labshop.locks", "release_lock").source
        return bool(await node.command("EVAL", script, 1, key, token))


async def check_lock(lock: Lockish, node: Node) -> Grade:
    """Grade a lock on a real node.

    Args:
        lock: the learner's, with `acquire` and `release`.
        node: an empty key ``exercise:lock`` on it is used.
    """

    async def tried(holds: Property) -> None:
        await node.command("DEL", KEY)
        await holds(lock, node)

    properties = {
        name: (points, partial(tried, holds)) for name, (points, holds) in PROPERTIES.items()
    }
    grading = await grade("01_setnx/lock", properties, within_s=FINISH_S)
    await node.command("DEL", KEY)
    return grading


async def one_holder(lock: Lockish, node: Node) -> None:
    """Whoever comes second does not get it, also when the first pauses within acquire."""
    steps = await _take(lock, node)
    second = await lock.acquire(Tap(node), KEY, "bob", TTL_MS)
    if second is True or await node.command("GET", KEY) != "ada":
        raise Broken("Ada held the lock, and Bob got it too", _two_holders("acquire"))
    if second is not False:
        raise Broken(f"the lock was taken, and acquire did not return False but {second!r}")
    for step in range(1, steps + 1):
        await node.command("DEL", KEY)
        told: list[bool] = []

        async def bob_comes() -> None:
            told.append(await lock.acquire(Tap(node), KEY, "bob", TTL_MS))  # noqa: B023  # runs at once

        tap = Tap(node, pause_before=step, meanwhile=bob_comes)
        told.append(await lock.acquire(tap, KEY, "ada", TTL_MS))
        if told.count(True) != 1:
            command = tap.trace[step - 1]
            raise Broken(
                f"Ada paused before command {step} of acquire ({command}), Bob acquired "
                f"meanwhile; {told.count(True)} of the two were told that they hold it",
                _two_holders(command),
            )


async def ends_by_itself(lock: Lockish, node: Node) -> None:
    """Wherever the process ends within acquire, the key is free or has an end."""
    for step in range(1, await _take(lock, node) + 1):
        await node.command("DEL", KEY)
        tap = Tap(node, crash_after=step)
        with suppress(ProcessEndedError):
            await lock.acquire(tap, KEY, "ada", TTL_MS)
        if await node.command("PTTL", KEY) == -1:
            raise Broken(
                f"the process ended after command {step} ({tap.trace[-1]}), "
                "and the key stays for ever",
                (
                    *(Point("Ada", at, "command", c) for at, c in enumerate(tap.trace, 1)),
                    Point("Ada", len(tap.trace) + 1, "crash", "process ends"),
                    Bar("the key", step, step + 5, "expired", "no time to live"),
                ),
            )


async def in_milliseconds(lock: Lockish, node: Node) -> None:
    """The time to live is what was asked for, in milliseconds."""
    await _take(lock, node)
    left_ms = await node.command("PTTL", KEY)
    if not TTL_MS - SLACK_MS < left_ms <= TTL_MS:
        raise Broken(f"asked for {TTL_MS} ms, the key has {_about(left_ms)}")


async def frees_its_own(lock: Lockish, node: Node) -> None:
    """Release by the holder frees the lock and says so."""
    await _take(lock, node)
    said = await lock.release(Tap(node), KEY, "ada")
    if said is not True:
        raise Broken(f"the holder released, and release did not return True but {said!r}")
    if await node.command("EXISTS", KEY):
        raise Broken("after its holder released it, the lock is still there")


async def leaves_anothers(lock: Lockish, node: Node) -> None:
    """Wherever release pauses until the lease is over, the next holder keeps the lock."""
    await _take(lock, node)
    whole = Tap(node)
    await lock.release(whole, KEY, "ada")
    for step in range(1, len(whole.trace) + 1):
        await _take(lock, node)

        async def next_holder() -> None:
            await _end_lease(node)
            await lock.acquire(Tap(node), KEY, "bob", TTL_MS)

        tap = Tap(node, pause_before=step, meanwhile=next_holder)
        await lock.release(tap, KEY, "ada")
        if not await node.command("EXISTS", KEY):
            raise Broken(
                f"Ada paused before command {step} of release ({tap.trace[step - 1]}), her "
                "lease ended, Bob acquired; Ada went on, and Bob's lock was gone",
                (
                    Bar("Ada", 1, 3, "lease", "holds it"),
                    Bar("Ada", 3, 6, "pause", "pauses"),
                    Bar("Bob", 4, 6, "lease", "holds it"),
                    Point("Ada", 6, "command", tap.trace[step - 1]),
                    Bar("Bob", 6, 8, "expired", "thinks so"),
                ),
            )


async def tells_the_truth(lock: Lockish, node: Node) -> None:
    """Release by somebody else changes nothing and returns False."""
    await _take(lock, node)
    said = await lock.release(Tap(node), KEY, "bob")
    if said is not False:
        raise Broken(f"Bob, who held nothing, released, and was told {said!r}")


PROPERTIES: dict[str, tuple[int, Property]] = {
    "one holder at a time": (2, one_holder),
    "ends by itself, wherever the process dies": (3, ends_by_itself),
    "time to live in milliseconds": (1, in_milliseconds),
    "frees its own": (1, frees_its_own),
    "leaves another's lock alone, wherever it pauses": (2, leaves_anothers),
    "tells the truth about a release": (1, tells_the_truth),
}

HINTS = {
    "one holder at a time": "Looking and taking must be one command: SET has an option that "
    "refuses when the key exists. Does your code look at the reply?",
    "ends by itself, wherever the process dies": "Between two commands a process can die. "
    "Which single command sets a value and its end?",
    "time to live in milliseconds": "SET knows EX and PX. Which one counts in milliseconds?",
    "frees its own": "DEL says how many keys it removed.",
    "leaves another's lock alone, wherever it pauses": "Whose lock is it at the moment of DEL? "
    "Looking and deleting must be one step; Redis runs a Lua script (EVAL) as one.",
    "tells the truth about a release": "Compare the token before you delete, and return whether "
    "you deleted.",
}


TICKETS = {
    "1. died between SETNX and EXPIRE": (
        "c",
        "The key has no time to live, and the only process that would delete it is gone.",
    ),
    "2. stops a late write": (
        "b",
        "The lock is another's by then, and does not stand between a client and the ledger.",
    ),
    "3. gives a unit back": ("b", "The old value wipes out what others bought in between."),
}
"""Questions at the exit: the letter of the right answer, and why."""


def _two_holders(command: str) -> tuple[Bar | Point, ...]:
    return (
        Bar("Ada", 1, 5, "lease", "holds it"),
        Point("Bob", 2, "command", command),
        Bar("Bob", 3, 5, "lease", "holds it too"),
    )


async def _take(lock: Lockish, node: Node) -> int:
    """Let Ada take the free lock; returns how many commands that needed."""
    await node.command("DEL", KEY)
    tap = Tap(node)
    said = await lock.acquire(tap, KEY, "ada", TTL_MS)
    if said is not True:
        raise Broken(f"the lock was free, and acquire did not return True but {said!r}")
    if not await node.command("EXISTS", KEY):
        raise Broken("acquire returned True, and there is no key in Redis")
    return len(tap.trace)


async def _end_lease(node: Node) -> None:
    """Let the present lease run out, at once, by the server's own clock."""
    await node.command("PEXPIRE", KEY, 1)
    while await node.command("EXISTS", KEY):  # noqa: ASYNC110  # an event of another process
        await asyncio.sleep(0.001)


def _about(left_ms: int) -> str:
    return {-1: "no end", -2: "gone already"}.get(left_ms, f"about {round(left_ms, -2)} ms")
