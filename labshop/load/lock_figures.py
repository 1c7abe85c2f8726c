"""What a lock on one node costs, alone and in a crowd, beside its peers.

The problem: locks a second say more about the machine than about the lock. The idea: in each
round every library takes locks a thousand times in three ways, and in turn with it plain pairs of
commands, `SET NX PX` and `EVALSHA`, are sent as often without any lock. Ratios come of it:

- *uncontended*: the plain pair's time over the lock's, once for one task that does one thing
  after the other, once for many tasks that each have a key of their own, as in a web server. The
  pair is redis-py's, for everybody; this package's lock is also held against the pair on its own
  `Node`;
- *contended*: the time of as many tasks on one key, over the same library's time for one task,
  so that a slow client does not pass for bad waiting;
- *fairness*: the longest wait of these over the median one.

It says nothing about a network: server and clients share one machine.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from redis.asyncio.lock import Lock

from labshop.load.contender import TIMEOUT_MS, Contest, contend, contend_in_processes
from labshop.load.figure import Figure, Measure, Tally
from labshop.load.peers import Hold, LockLibrary, redis_client
from labshop.load.trial import FailedError, empty, trial
from labshop.locks import Node
from labshop.stack.nodes import ServerNode

ROUNDS = 5
TASKS, TIMES = 50, 20
BLOCKS = 10
PROCESSES = 5
BOUND_S = 15.0
"""How long one library may take for one step."""

ONE_TASK = Measure(
    "uncontended 1 task / raw pair",
    "Speed of one task without rivals, against redis-py's SET and EVALSHA (more is better)",
)
MANY_TASKS = Measure(
    f"uncontended {TASKS} tasks / raw pair",
    f"The same for {TASKS} tasks at once, each on a key of its own (more is better)",
)
ONE_TASK_OWN = Measure(
    "uncontended 1 task / own raw pair",
    "Speed of one task, against SET and EVALSHA on this package's own connection",
)
MANY_TASKS_OWN = Measure(
    f"uncontended {TASKS} tasks / own raw pair", f"The same for {TASKS} tasks, each on its own key"
)
CONTENDED = Measure(
    "contended / serial",
    f"Time for {TASKS} tasks x {TIMES} takes, against the same takes in a row (less is better)",
)
UNFAIRNESS = Measure(
    "contended max / median wait", "The longest wait of these, against their median"
)
PROCESSES_CONTENDED = Measure(
    f"{PROCESSES} processes / serial",
    f"The same takes by {PROCESSES} processes, against the takes in a row",
)
PROCESSES_UNFAIRNESS = Measure(
    f"{PROCESSES} processes max / median wait", "The longest wait of these, against their median"
)
ALONE = (ONE_TASK, MANY_TASKS)
ALONE_OWN = (ONE_TASK_OWN, MANY_TASKS_OWN)
IN_A_CROWD = (CONTENDED, UNFAIRNESS)
IN_PROCESSES = (PROCESSES_CONTENDED, PROCESSES_UNFAIRNESS)


def single_node_figures(node: ServerNode, libraries: Iterable[LockLibrary]) -> list[Figure]:
    """Measure locks on one node.

    Args:
        node: the server; nobody else uses it, for it is emptied.
        libraries: who is measured, in this order within each round.
    """
    tally = Tally((*ALONE, *ALONE_OWN, *IN_A_CROWD, *IN_PROCESSES))
    for _ in range(ROUNDS):
        for library in libraries:
            empty((node,))
            # An event loop of its own for each: what a peer leaves running ends with it.
            serial_s = asyncio.run(_one_library(node.url, library, tally))
            if library.is_ours and serial_s is not None:
                asyncio.run(_ours_beside_own_pairs(node.url, library, tally))
                contest = asyncio.run(_our_processes(node.url))
                values = (contest.total_s / serial_s, contest.unfairness)
                _add_all(tally, IN_PROCESSES, library, values)
    return tally.figures()


async def _one_library(url: str, library: LockLibrary, tally: Tally) -> float | None:
    """One round of a library; its seconds for all takes in a row, None when it fails at that."""
    if tally.has_failed(ONE_TASK, library.name):
        return None
    serial_s: float | None = None
    measured: Sequence[Measure] = (*ALONE, *IN_A_CROWD)
    try:
        async with trial(library, 3 * BOUND_S), library.open([url], TIMEOUT_MS) as hold:
            async with trial(library, BOUND_S), _raw_pairs(url) as pair:
                serial_s, ratios = await _compare(pair, hold)
            _add_all(tally, ALONE, library, ratios)
            measured = IN_A_CROWD
            if not tally.has_failed(CONTENDED, library.name):
                async with trial(library, BOUND_S):
                    contest = await contend(hold, ["contended"] * TASKS, times=TIMES)
                values = (contest.total_s / serial_s, contest.unfairness)
                _add_all(tally, IN_A_CROWD, library, values)
    except FailedError as failure:
        for measure in measured:
            tally.fail(measure, library.name, str(failure))
    return serial_s


async def _ours_beside_own_pairs(url: str, ours: LockLibrary, tally: Tally) -> None:
    async with _raw_pairs_on_own_node(url) as pair, ours.open([url], TIMEOUT_MS) as hold:
        _, ratios = await _compare(pair, hold)
    _add_all(tally, ALONE_OWN, ours, ratios)


async def _compare(pair: Hold, hold: Hold) -> tuple[float, tuple[float, float]]:
    """Take all locks without rivals, in many short blocks, each just after as many plain pairs.

    A shared machine changes within a second; so short a block and its yardstick suffer alike.

    Returns:
        The seconds of one task for all takes in a row; the pairs' time over the locks', for one
        task and for many tasks at once.
    """
    keys = [f"key {number}" for number in range(TASKS)]
    for each in (pair, hold):
        # Whoever has a pool opens its connections here.
        await contend(each, keys, times=1)
    one_task = {pair: 0.0, hold: 0.0}
    many_tasks = {pair: 0.0, hold: 0.0}
    # As timeit does: a pause of the collector would be charged to whoever is measured just then.
    gc.collect()
    gc.disable()
    try:
        for _ in range(BLOCKS):
            for each in (pair, hold):
                contest = await contend(each, keys[:1], times=TASKS * TIMES // BLOCKS)
                one_task[each] += contest.total_s
            for each in (pair, hold):
                contest = await contend(each, keys, times=TIMES // BLOCKS)
                many_tasks[each] += contest.total_s
    finally:
        gc.enable()
    ratios = (one_task[pair] / one_task[hold], many_tasks[pair] / many_tasks[hold])
    return one_task[hold], ratios


def _add_all(
    tally: Tally, measures: Iterable[Measure], library: LockLibrary, values: Iterable[float]
) -> None:
    for measure, value in zip(measures, values, strict=True):
        tally.add(measure, library.name, value)


@asynccontextmanager
async def _raw_pairs(url: str) -> AsyncIterator[Hold]:
    """The pair of plain commands by redis-py, as if it were a lock."""
    async with redis_client(url, TIMEOUT_MS) as client:
        sha = await client.script_load(Lock.LUA_RELEASE_SCRIPT)

        @asynccontextmanager
        async def pair(key: str) -> AsyncIterator[None]:
            await client.set(key, "token", nx=True, px=TIMEOUT_MS)
            yield
            await client.evalsha(sha, 1, key, "token")

        yield pair


@asynccontextmanager
async def _raw_pairs_on_own_node(url: str) -> AsyncIterator[Hold]:
    """The same pair on the connection that this package's locks use."""
    node = Node(url, timeout_ms=TIMEOUT_MS)
    try:
        sha = await node.command("SCRIPT", "LOAD", Lock.LUA_RELEASE_SCRIPT)

        @asynccontextmanager
        async def pair(key: str) -> AsyncIterator[None]:
            await node.command("SET", key, "token", "NX", "PX", TIMEOUT_MS)
            yield
            await node.command("EVALSHA", sha, 1, key, "token")

        yield pair
    finally:
        await node.close()


async def _our_processes(url: str) -> Contest:
    async with asyncio.timeout(BOUND_S):
        return await contend_in_processes(
            url, "processes", processes=PROCESSES, tasks=TASKS // PROCESSES, times=TIMES
        )
