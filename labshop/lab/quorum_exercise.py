"""The exercise of lesson 3: acquire and release on five nodes, graded property by property."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from typing import Any, Protocol

from labshop.lab.grade import Broken, Grade, ProcessEndedError, grade
from labshop.lab.lanes import Bar, Point
from labshop.lab.quorum_client import Client, Fate, wall_clock_jumps
from labshop.locks import Node
from labshop.lua import load_script

KEY = "exercise:quorum"
LONG_MS = 60_000
"""A time to live of which nothing is lost by a slow machine."""
SHORT_MS, PAUSE_MS = 150, 200
"""A time to live, and a pause that is longer."""
LATE_MS = 200
ROUNDING_MS = 5
HOUR_S = 3_600
FINISH_S = 60.0

Property = Callable[["QuorumLockish", Sequence[Node]], Awaitable[None]]


class QuorumLockish(Protocol):
    """What the exercise asks for."""

    async def acquire(
        self, nodes: Sequence[Any], key: str, token: str, ttl_ms: int
    ) -> float | None: ...
    async def release(self, nodes: Sequence[Any], key: str, token: str) -> None: ...


class ReferenceQuorum:
    """The heart of stage v3's lock in the shape of the exercise, for who goes on without one."""

    async def acquire(
        self, nodes: Sequence[Any], key: str, token: str, ttl_ms: int
    ) -> float | None:
        """Ask all nodes at once; returns for how many milliseconds the lock is sure, or None."""
        began_s = time.monotonic()
        asked = (node.command("SET", key, token, "NX", "PX", ttl_ms) for node in nodes)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        elapsed_ms = (time.monotonic() - began_s) * 1_000
        validity_ms = ttl_ms - elapsed_ms - (ttl_ms * 0.01 + 2)
        if answers.count("OK") > len(nodes) // 2 and validity_ms > 0:
            return validity_ms
        await self.release(nodes, key, token)
        return None

    async def release(self, nodes: Sequence[Any], key: str, token: str) -> None:
        """Take the vote back on every node."""
        script = load_script("labshop.locks", "release_lock").source
        asked = (node.command("EVAL", script, 1, key, token) for node in nodes)
        await asyncio.gather(*asked, return_exceptions=True)


async def check_quorum(lock: QuorumLockish, nodes: Sequence[Node]) -> Grade:
    """Grade a quorum lock on five real nodes.

    Args:
        lock: the learner's, with `acquire` and `release`.
        nodes: all alive; a key ``exercise:quorum`` on them is used.
    """

    async def tried(holds: Property) -> None:
        await _set_keys(nodes, [None] * len(nodes))
        await holds(lock, nodes)

    properties = {
        name: (points, partial(tried, holds)) for name, (points, holds) in PROPERTIES.items()
    }
    grading = await grade("03_redlock/quorum", properties, within_s=FINISH_S)
    await _set_keys(nodes, [None] * len(nodes))
    return grading


async def majority_decides(lock: QuorumLockish, nodes: Sequence[Node]) -> None:
    """Whichever nodes are dead: three of five grant, two do not, and nothing stays behind."""
    for alive in product((True, False), repeat=len(nodes)):
        await _set_keys(nodes, [None] * len(nodes))
        fates: list[Fate] = ["answers" if it else "dead" for it in alive]
        said = await _acquire(lock, Client(nodes, fates), LONG_MS)
        held = (await _keys(nodes)).count("ada")
        dead = ", ".join(f"lock-{n}" for n, it in enumerate(alive, 1) if not it) or "no node"
        if sum(alive) > len(nodes) // 2:
            _expect_validity(said, f"with {dead} dead")
            if held <= len(nodes) // 2:
                raise Broken(f"with {dead} dead, acquire said {said!r}; {held} nodes hold the key")
        elif said is not None:
            raise Broken(f"with {dead} dead, no majority was left, and acquire returned {said!r}")
        elif held:
            raise Broken(f"with {dead} dead, acquire returned None, and {held} nodes hold the key")


async def asks_at_once(lock: QuorumLockish, nodes: Sequence[Node]) -> None:
    """No node is asked only after another one has answered."""
    await _acquire(lock, Client(nodes, together=True), LONG_MS)


async def leaves_nothing(lock: QuorumLockish, nodes: Sequence[Node]) -> None:
    """Whichever nodes are Bob's and whichever hang: a failed attempt leaves no vote anywhere."""
    for states in product(("free", "Bob's", "hangs"), repeat=len(nodes)):
        await _set_keys(nodes, ["bob" if it == "Bob's" else None for it in states])
        client = Client(nodes, ["hangs" if it == "hangs" else "answers" for it in states])
        said = await _acquire(lock, client, LONG_MS)
        await client.wake()
        keys = await _keys(nodes)
        scene = _listed(states)
        if [it == "Bob's" for it in states] != [key == "bob" for key in keys]:
            raise Broken(f"({scene}) a vote of Bob's is gone, or is Ada's now")
        if states.count("free") > len(nodes) // 2:
            _expect_validity(said, f"({scene})")
        elif said is not None:
            raise Broken(f"({scene}) there was no majority, and acquire returned {said!r}")
        elif "ada" in keys:
            place = keys.index("ada")
            raise Broken(
                f"({scene}) acquire returned None, and Ada's vote stays on lock-{place + 1}"
                + (
                    ", which hung, and carried out the SET when it woke"
                    * (states[place] == "hangs")
                ),
                (
                    Point("Ada", 1, "command", "SET to all"),
                    Point("Ada", 2, "refused", "no majority"),
                    Bar(f"lock-{place + 1}", 3, 6, "expired", "Ada's vote stays"),
                ),
            )


async def is_honest_after_a_pause(lock: QuorumLockish, nodes: Sequence[Node]) -> None:
    """A pause longer than the time to live, wherever in acquire, and late replies: no lease."""
    whole = Client(nodes)
    await _acquire(lock, whole, LONG_MS)
    steps = range(1, len(whole.trace) + 1)
    paused = (Client(nodes, pause_before=step, pause_ms=PAUSE_MS) for step in steps)
    for client in (Client(nodes, late_ms=PAUSE_MS), *paused):
        await _set_keys(nodes, [None] * len(nodes))
        said = await _acquire(lock, client, SHORT_MS)
        what = "the replies came" if client.late_ms else f"command {client.pause_before} left"
        if said is not None:
            raise Broken(
                f"{what} {PAUSE_MS} ms late; the votes are for {SHORT_MS} ms, and acquire "
                f"returned {said!r}",
                (
                    Bar("Ada", 1, 5, "pause", "waits, or stands still"),
                    Bar("her votes", 2, 4, "lease", "held"),
                    Bar("Ada", 5, 7, "expired", "believes"),
                ),
            )
        if "ada" in await _keys(nodes):
            raise Broken(f"{what} {PAUSE_MS} ms late; acquire returned None and left a vote")


async def tells_what_is_left(lock: QuorumLockish, nodes: Sequence[Node]) -> None:
    """The validity is the time to live, less the time that asking took, less the drift."""
    began_s = time.monotonic()
    client = Client(nodes, late_ms=LATE_MS)
    said = await _acquire(lock, client, LONG_MS)
    outer_ms = (time.monotonic() - began_s) * 1_000
    _expect_validity(said, "with all nodes alive")
    assert said is not None
    assert client.began_s is not None
    majority_s = client.replies_s[len(nodes) // 2]
    drift_ms = LONG_MS * 0.01 + 2
    at_most_ms = LONG_MS - (majority_s - client.began_s) * 1_000 - drift_ms
    at_least_ms = LONG_MS - outer_ms - drift_ms
    if not at_least_ms - ROUNDING_MS <= said <= at_most_ms + ROUNDING_MS:
        raise Broken(
            f"asked for {LONG_MS} ms; it took {LATE_MS} ms until a majority had answered; acquire "
            f"says that {said:.0f} ms are sure, and {at_most_ms:.0f} are"
        )


async def ends_by_itself(lock: QuorumLockish, nodes: Sequence[Node]) -> None:
    """Wherever the process ends within acquire, each vote ends, in the milliseconds asked for."""
    whole = Client(nodes)
    await _acquire(lock, whole, LONG_MS)
    for step in range(1, len(whole.trace) + 1):
        await _set_keys(nodes, [None] * len(nodes))
        client = Client(nodes, crash_after=step)
        with suppress(ProcessEndedError):
            await _acquire(lock, client, LONG_MS)
        for place, node in enumerate(nodes, start=1):
            left_ms = await node.command("PTTL", KEY)
            if left_ms == -1:
                raise Broken(
                    f"the process ended after command {step}, and its vote on lock-{place} stays "
                    "for ever",
                    (
                        Point("Ada", step, "crash", "process ends"),
                        Bar(f"lock-{place}", step, step + 5, "expired", "no time to live"),
                    ),
                )
            if left_ms > LONG_MS:
                raise Broken(f"asked for {LONG_MS} ms, lock-{place} keeps the vote for {left_ms}")


async def frees_its_own_only(lock: QuorumLockish, nodes: Sequence[Node]) -> None:
    """Release frees all that is Ada's, also where a node hangs, and nothing that is Bob's."""
    for states in product(("Ada's", "Bob's", "hangs"), repeat=len(nodes)):
        await _set_keys(nodes, ["bob" if it == "Bob's" else "ada" for it in states])
        client = Client(nodes, ["hangs" if it == "hangs" else "answers" for it in states])
        await _release(lock, client)
        await client.wake()
        keys = await _keys(nodes)
        if "ada" in keys:
            raise Broken(
                f"({_listed(states)}) released, lock-{keys.index('ada') + 1} is Ada's still"
            )
        if keys.count("bob") != states.count("Bob's"):
            raise Broken(f"({_listed(states)}) release removed a vote of Bob's")
    whole = Client(nodes)
    await _set_keys(nodes, ["ada"] * len(nodes))
    await _release(lock, whole)
    for step in range(1, len(whole.trace) + 1):
        await _set_keys(nodes, ["ada"] * len(nodes))
        client = Client(nodes, pause_before=step, meanwhile=_becomes_bobs)
        await _release(lock, client)
        if "bob" not in await _keys(nodes):
            place, command = client.trace[step - 1]
            raise Broken(
                f"Ada paused before {command} on {place}; her vote there ended, Bob got it; she "
                "went on, and Bob's vote was gone"
            )


async def trusts_no_wall_clock(lock: QuorumLockish, nodes: Sequence[Node]) -> None:
    """The wall clock of the client is set, while it acquires: its answer is the same."""
    client = Client(nodes, late_ms=PAUSE_MS)
    with wall_clock_jumps(-HOUR_S, client):
        said = await _acquire(lock, client, SHORT_MS)
    if said is not None:
        raise Broken(
            f"the replies came too late, the wall clock was set back by an hour meanwhile, and "
            f"acquire says that {said:.0f} ms are left of {SHORT_MS}"
        )
    await _set_keys(nodes, [None] * len(nodes))
    client = Client(nodes)
    with wall_clock_jumps(HOUR_S, client):
        said = await _acquire(lock, client, LONG_MS)
    _expect_validity(said, "while the wall clock was set ahead")


PROPERTIES: dict[str, tuple[int, Property]] = {
    "a majority grants, a minority does not": (2, majority_decides),
    "asks all nodes at once": (1, asks_at_once),
    "a failed attempt leaves no vote behind": (2, leaves_nothing),
    "too late is not granted, wherever it pauses": (2, is_honest_after_a_pause),
    "says how long the lock is sure": (1, tells_what_is_left),
    "ends by itself, wherever the process dies": (1, ends_by_itself),
    "release frees its own, and nothing of others": (2, frees_its_own_only),
    "does not believe in the wall clock": (1, trusts_no_wall_clock),
}


def _expect_validity(said: object, scene: str) -> None:
    if isinstance(said, bool) or not isinstance(said, int | float) or said <= 0:
        raise Broken(f"{scene}, acquire did not return the milliseconds that are left but {said!r}")


async def _acquire(lock: QuorumLockish, client: Client, ttl_ms: int) -> float | None:
    said = await lock.acquire(client.taps, KEY, "ada", ttl_ms)
    client.complain_now()
    return said


async def _release(lock: QuorumLockish, client: Client) -> None:
    await lock.release(client.taps, KEY, "ada")
    client.complain_now()


async def _set_keys(nodes: Sequence[Node], holders: Sequence[str | None]) -> None:
    """Let each node's vote be somebody's, or nobody's."""
    await asyncio.gather(
        *(
            node.command("DEL", KEY) if holder is None else node.command("SET", KEY, holder)
            for node, holder in zip(nodes, holders, strict=True)
        )
    )


async def _keys(nodes: Sequence[Node]) -> list[str | None]:
    return list(await asyncio.gather(*(node.command("GET", KEY) for node in nodes)))


async def _becomes_bobs(node: Node) -> None:
    await node.command("SET", KEY, "bob")


def _listed(states: Sequence[str]) -> str:
    return ", ".join(f"lock-{place} {state}" for place, state in enumerate(states, start=1))
