"""The first exercise of lesson 2: `lock_all`, graded property by property.

Every step at which an acquisition or a release can fail or be interrupted is tried in turn, on real
locks; see `labshop.lab.many_locks_tap`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import permutations

from labshop.lab.grade import Broken, Grade, grade
from labshop.lab.many_locks import LockAll, OneLease
from labshop.lab.many_locks_tap import Fault, Tap
from labshop.locks import LockTimeout, Node, NodeDown, NodeSilent

EXERCISE = "02_multilock/lock_all"
NAMES = ("product:1", "product:2", "product:3")
WAIT_MS = 600
PAUSE_MS = 100
LATE_MS = 80
"""How much later than the learner's the grader's clock may be read."""
FINISH_S = 5.0

Property = Callable[[LockAll, Node], Awaitable[None]]


class BodyError(Exception):
    """What the grader raises in a body."""


async def check_lock_all(lock_all: LockAll, node: Node) -> Grade:
    """Grade a `lock_all` on a real node.

    Args:
        lock_all: the learner's.
        node: keys that begin with ``lock:{exercise:`` are used on it.
    """
    properties = {
        name: (points, partial(holds, lock_all, node))
        for name, (points, holds) in PROPERTIES.items()
    }
    return await grade(EXERCISE, properties, within_s=FINISH_S)


async def holds_all(lock_all: LockAll, node: Node) -> None:
    """While the body runs all are held, and the body has their leases; afterwards, none is."""
    tap = await _all_goes_well(lock_all, node, NAMES)
    await _none_held(tap, "the body had ended")


async def ascending(lock_all: LockAll, node: Node) -> None:
    """In whatever order the names come, the locks are taken in ascending order."""
    for order in permutations(NAMES):
        tap = await _all_goes_well(lock_all, node, order)
        if tap.names("acquire") != sorted(NAMES):
            raise Broken(
                f"asked for {_listed(order)}, it took {_listed(tap.names('acquire'))}", tap.story()
            )


async def merged(lock_all: LockAll, node: Node) -> None:
    """A name that stands there twice is one lock."""
    twice = (NAMES[1], NAMES[0], NAMES[1])
    tap = Tap(node)
    try:
        await tap.use(lock_all, twice, WAIT_MS, _look(tap, twice))
    except LockTimeout:
        raise Broken(
            f"{NAMES[1]} stood there twice, and it waited for itself", tap.story()
        ) from None
    if len(tap.names("acquire")) != 2:  # noqa: PLR2004  # two names
        raise Broken(f"of two names it acquired {_listed(tap.names('acquire'))}", tap.story())


async def none_after_failure(lock_all: LockAll, node: Node) -> None:
    """Whichever lock is not to be had, and why: the error comes out, and no lock is held."""
    await _all_goes_well(lock_all, node, NAMES)
    for number in range(1, len(NAMES) + 1):
        for error in (LockTimeout("product", WAIT_MS), NodeDown("a node", "refused")):
            tap = Tap(node, Fault("acquire", number, error))
            kind = type(error).__name__
            try:
                await tap.use(lock_all, NAMES, WAIT_MS, _must_not_run(tap))
            except type(error):
                await _none_held(tap, f"lock {number} of {len(NAMES)} had failed by {kind}")
            else:
                raise Broken(f"lock {number} failed by {kind}, and nobody was told", tap.story())


async def none_after_cancellation(lock_all: LockAll, node: Node) -> None:
    """Whichever lock the task was waiting for when it was cancelled: no lock is held."""
    await _all_goes_well(lock_all, node, NAMES)
    for number in range(1, len(NAMES) + 1):
        tap = Tap(node, Fault("acquire", number))
        await tap.use(lock_all, NAMES, WAIT_MS, _must_not_run(tap))
        await _none_held(
            tap, f"its task was cancelled while it waited for lock {number} of {len(NAMES)}"
        )


async def one_deadline(lock_all: LockAll, node: Node) -> None:
    """Each lock may be waited for as long as is left of the time for all."""
    tap = Tap(node, pause_s=PAUSE_MS / 1_000)
    began_s = asyncio.get_running_loop().time()
    await tap.use(lock_all, NAMES, WAIT_MS, _look(tap, NAMES))
    for name, given_ms, at_s in tap.waits_ms:
        gone_ms = (at_s - began_s) * 1_000
        if not WAIT_MS - 1 <= given_ms + gone_ms <= WAIT_MS + LATE_MS:
            raise Broken(
                f"of {WAIT_MS} ms for all, about {round(gone_ms, -2):.0f} were gone; for {name} it "
                f"was ready to wait {given_ms:.0f} ms more"
            )


async def ends_with_the_body(lock_all: LockAll, node: Node) -> None:
    """However the body ends, all are released; its error comes out."""
    await _all_goes_well(lock_all, node, NAMES)
    tap = Tap(node)

    async def fail(_leases: Sequence[OneLease]) -> None:
        raise BodyError

    try:
        await tap.use(lock_all, NAMES, WAIT_MS, fail)
    except BodyError:
        await _none_held(tap, "the body had raised an error")
    else:
        raise Broken("the body raised an error, and nobody was told", tap.story())

    tap = Tap(node, Fault("acquire", len(NAMES) + 1))  # never: the body itself is interrupted

    async def stand_still(_leases: Sequence[OneLease]) -> None:
        await tap.stand_still(NAMES[0])

    await tap.use(lock_all, NAMES, WAIT_MS, stand_still)
    await _none_held(tap, "its task was cancelled in the body")


async def last_taken_first_freed(lock_all: LockAll, node: Node) -> None:
    """Locks are released in the reverse order, at the end and after a failure."""
    tap = await _all_goes_well(lock_all, node, NAMES)
    failed = Tap(node, Fault("acquire", len(NAMES), NodeDown("a node", "refused")))
    with suppress(NodeDown):
        await failed.use(lock_all, NAMES, WAIT_MS, _must_not_run(failed))
    for it, taken in ((tap, tap.names("acquire")), (failed, failed.names("acquire")[:-1])):
        freed = it.names("release")
        if freed and freed != taken[::-1]:
            raise Broken(f"taken were {_listed(taken)}; freed were {_listed(freed)}", it.story())
    if not tap.names("release"):
        raise Broken("nothing was released", tap.story())


async def frees_the_others_too(lock_all: LockAll, node: Node) -> None:
    """Whichever release fails or is interrupted, the other locks are released all the same."""
    await _all_goes_well(lock_all, node, NAMES)
    for number in range(1, len(NAMES) + 1):
        tap = Tap(node, Fault("release", number, NodeSilent("a node", "no answer")))
        with suppress(NodeSilent):
            await tap.use(lock_all, NAMES, WAIT_MS, _look(tap, NAMES))
        await _none_held(
            tap,
            f"release {number} of {len(NAMES)} had failed",
            tap.names("release")[number - 1 :][:1],
        )
        tap = Tap(node, Fault("release", number))
        await tap.use(lock_all, NAMES, WAIT_MS, _look(tap, NAMES))
        await _none_held(tap, f"its task was cancelled during release {number} of {len(NAMES)}")


PROPERTIES: dict[str, tuple[int, Property]] = {
    "holds all while the body runs, none afterwards": (1, holds_all),
    "takes them in ascending order": (1, ascending),
    "a name twice is one lock": (1, merged),
    "none is held when one cannot be had": (2, none_after_failure),
    "none is held when its task is cancelled": (1, none_after_cancellation),
    "one deadline for all": (1, one_deadline),
    "all end with the body, however that ends": (1, ends_with_the_body),
    "last taken, first freed": (1, last_taken_first_freed),
    "one release that fails does not stop the others": (1, frees_the_others_too),
}

HINTS = {
    "holds all while the body runs, none afterwards": "Between taking and freeing stands one "
    "`yield`, which hands the list of leases to the body.",
    "takes them in ascending order": "The order must not depend on who asks. Python can put words "
    "in order.",
    "a name twice is one lock": "What kind of collection has each of its members once?",
    "none is held when one cannot be had": "When the third raises, who remembers the first two? "
    "And not every failure is a LockTimeout.",
    "none is held when its task is cancelled": "A cancellation is not an Exception: look up in "
    "which class CancelledError descends, or use a block that runs in any case.",
    "one deadline for all": "Note once, at the start, at which moment the time is over. What is "
    "left then, before each lock?",
    "all end with the body, however that ends": "The body runs where `yield` stands; its error is "
    "raised there.",
    "last taken, first freed": "What was put on a pile last is taken from it first.",
    "one release that fails does not stop the others": "A loop ends at the first error. The "
    "standard library's contextlib has something that remembers what to undo, and undoes it all.",
}

TICKETS = {
    "1. sorted locks cannot deadlock because": (
        "c",
        "Whoever holds the greatest of the locks that are held waits for nobody who holds one.",
    ),
    "2. one of two is held, and its process dies": (
        "b",
        "The lease ends by itself. The order was booked in whole or not at all.",
    ),
    "3. a payment belongs": (
        "c",
        "A reservation keeps the unit, so nobody has to wait while a bank thinks.",
    ),
}
"""Questions at the exit: the letter of the right answer, and why."""


async def _all_goes_well(lock_all: LockAll, node: Node, names: Sequence[str]) -> Tap:
    tap = Tap(node)
    await tap.use(lock_all, names, WAIT_MS, _look(tap, names))
    if not tap.names("acquire"):
        raise Broken("it acquired nothing")
    return tap


def _look(tap: Tap, names: Sequence[str]) -> Callable[[Sequence[OneLease]], Awaitable[None]]:
    """A body that sees whether it is protected."""

    async def body(leases: Sequence[OneLease]) -> None:
        wanted = sorted(set(names))
        held = await tap.held(*wanted)
        if held != wanted:
            missing = [name for name in wanted if name not in held]
            raise Broken(f"in the body, {_listed(missing)} is not locked", tap.story())
        if not isinstance(leases, list | tuple) or len(leases) != len(wanted):
            raise Broken(f"the body was given {leases!r}, and not a list of {len(wanted)} leases")

    return body


def _must_not_run(tap: Tap) -> Callable[[Sequence[OneLease]], Awaitable[None]]:
    async def body(_leases: Sequence[OneLease]) -> None:
        raise Broken("the body ran, and not all was locked", tap.story())

    return body


async def _none_held(tap: Tap, after: str, except_for: Sequence[str] = ()) -> None:
    held = [name for name in await tap.held(*NAMES) if name not in except_for]
    if held:
        raise Broken(f"{after}, and {_listed(held)} stayed locked", tap.story())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
