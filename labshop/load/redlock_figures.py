"""What a lock on five nodes costs while all are well, while two are dead, while two hang.

The problem: Redlock promises to live with a minority of broken nodes, yet a client that waits
for the slowest node lives at the pace of the broken ones, and what it sent to a hung node is
carried out when that wakes: a lock that nobody holds. The idea: one task takes one lock after
the other, each on a key of its own, for a fixed time; then two nodes are stopped by SIGSTOP and
it goes on; then they are woken, and the locks that are left on all five are counted. Two nodes
are killed once, at the end of all rounds, because a node that comes back is another case.

It does not promise that a lock left behind stays: its time to live ends it, later than the count.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import pairwise

from redis.asyncio import Redis

from labshop.load.figure import Figure, Measure, Tally
from labshop.load.peers import TTL_MS, Hold, LockLibrary, redis_client
from labshop.load.trial import FailedError, empty, trial
from labshop.stack.nodes import ServerNode

ROUNDS = 3
BROKEN = 2
WINDOW_S = 1.0
"""How long locks are taken in each state of the nodes."""
BOUND_S = 4.0
"""A library that has not finished its window by then stalls."""
NODE_TIMEOUT_MS = 100
WARM_UP = 20
ROUND_S = 30.0
"""How long all of a library's round may take, its opening and closing included."""
SETTLE_S = TTL_MS / 1_000 / 5
"""How long a woken node and its clients may take to clear up; far less than a lock lives."""
POLL_S = 0.02

STATES = ("healthy", f"{BROKEN} hung", f"{BROKEN} killed")
HEALTHY, HUNG, KILLED = STATES
SPEED = {
    state: Measure(f"redlock {state}, locks/s", f"Locks a second by one task on 5 nodes, {state}")
    for state in STATES
}
P50 = {
    state: Measure(f"redlock {state}, p50 ms", f"Median time of one of these locks, {state}, in ms")
    for state in STATES
}
HUNG_TO_HEALTHY = Measure(
    "redlock hung / healthy p50",
    f"Median time of a lock with {BROKEN} of 5 nodes hung, against all well (less is better)",
)
ORPHANS = Measure(
    "redlock orphans", "Locks that nobody holds, left on the 5 nodes when the hung ones have woken"
)


@dataclass(frozen=True)
class Pace:
    """How fast locks were taken one after the other."""

    locks_per_s: float
    p50_ms: float


def redlock_figures(nodes: Sequence[ServerNode], libraries: Iterable[LockLibrary]) -> list[Figure]:
    """Measure locks on five nodes; two of them are dead afterwards.

    Args:
        nodes: the servers; nobody else uses them, for they are emptied.
        libraries: who is measured, in this order within each round.
    """
    tally = Tally((*SPEED.values(), *P50.values(), HUNG_TO_HEALTHY, ORPHANS))
    for _ in range(ROUNDS):
        for library in libraries:
            empty(nodes)
            asyncio.run(_well_and_hung(nodes, library, tally))
    for node in nodes[-BROKEN:]:
        node.kill()
    for _ in range(ROUNDS):
        for library in libraries:
            empty(nodes[:-BROKEN])
            asyncio.run(_with_dead_nodes(nodes, library, tally))
    return tally.figures()


async def _well_and_hung(nodes: Sequence[ServerNode], library: LockLibrary, tally: Tally) -> None:
    """One round of a library, before and while two nodes hang, and what it leaves behind."""
    async with _opened(nodes, library, HEALTHY, tally) as hold:
        healthy = await _pace(HEALTHY, library, hold, tally)
        if healthy is None or tally.has_failed(SPEED[HUNG], library.name):
            return
        with _frozen(nodes[-BROKEN:]):
            hung = await _pace(HUNG, library, hold, tally)
        tally.add(ORPHANS, library.name, await _orphans(nodes))
        if hung is None:
            tally.fail(HUNG_TO_HEALTHY, library.name, tally.failure(SPEED[HUNG], library.name))
        else:
            tally.add(HUNG_TO_HEALTHY, library.name, hung.p50_ms / healthy.p50_ms)


async def _with_dead_nodes(nodes: Sequence[ServerNode], library: LockLibrary, tally: Tally) -> None:
    async with _opened(nodes, library, KILLED, tally) as hold:
        await _pace(KILLED, library, hold, tally)


@asynccontextmanager
async def _opened(
    nodes: Sequence[ServerNode], library: LockLibrary, state: str, tally: Tally
) -> AsyncIterator[Hold]:
    """The library on these nodes; one that cannot be opened or closed has failed in this state."""
    urls = [node.url for node in nodes]
    try:
        async with trial(library, ROUND_S), library.open(urls, NODE_TIMEOUT_MS) as hold:
            yield hold
    except FailedError as failure:
        _fail(state, library, tally, failure)


async def _pace(state: str, library: LockLibrary, hold: Hold, tally: Tally) -> Pace | None:
    """Measure and note one window; None when the library fails, now or in an earlier round."""
    if tally.has_failed(SPEED[state], library.name):
        return None
    try:
        if state == HEALTHY:
            async with trial(library, TTL_MS / 1_000 + BOUND_S):
                await _warm_up(hold)
        async with trial(library, BOUND_S):
            pace = await _take_for_a_while(hold, state)
    except FailedError as failure:
        _fail(state, library, tally, failure)
        return None
    tally.add(SPEED[state], library.name, pace.locks_per_s)
    tally.add(P50[state], library.name, pace.p50_ms)
    return pace


def _fail(state: str, library: LockLibrary, tally: Tally, failure: FailedError) -> None:
    for measure in (SPEED[state], P50[state]):
        tally.fail(measure, library.name, str(failure))


async def _warm_up(hold: Hold) -> None:
    """Connect, load scripts, and wait until nodes that have just started may vote."""
    for number in range(WARM_UP):
        async with hold(f"warm-up {number}"):
            pass


async def _take_for_a_while(hold: Hold, state: str) -> Pace:
    """Take one lock after the other, each on a key of its own, until the window is over."""
    began_s = time.monotonic()
    marks_s = [began_s]
    while marks_s[-1] - began_s < WINDOW_S:
        async with hold(f"{state} {len(marks_s)}"):
            pass
        marks_s.append(time.monotonic())
    times_s = [end - begin for begin, end in pairwise(marks_s)]
    return Pace(len(times_s) / (marks_s[-1] - began_s), 1_000 * statistics.median(times_s))


@contextmanager
def _frozen(nodes: Sequence[ServerNode]) -> Iterator[None]:
    try:
        for node in nodes:
            node.freeze()
        yield
    finally:
        for node in nodes:
            node.thaw()


async def _orphans(nodes: Sequence[ServerNode]) -> int:
    """Count the locks that are left when the nodes had time to carry out what had queued."""
    deadline_s = time.monotonic() + SETTLE_S
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(redis_client(node.url, 1_000)) for node in nodes]
        while True:
            left = sum([await _locks_on(client) for client in clients])
            if not left or time.monotonic() > deadline_s:
                return left
            # Another process sets no event here.
            await asyncio.sleep(POLL_S)


async def _locks_on(client: Redis) -> int:
    keys = await client.keys("*")
    return len(keys)
