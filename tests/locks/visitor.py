"""A process of its own that takes locks: ``python -m tests.locks.visitor TASK URL KEY ...``.

It says ``ready``, waits for a line, and does its task:

- ``count URL KEY TASKS TIMES``: tasks read, wait and write a count under the lock; it prints its
  longest wait in milliseconds;
- ``hold URL KEY``: takes the lock, says ``held``, and holds it until it is killed;
- ``take URL KEY WAIT_MS``: waits for the lock, prints its token, and releases it at the next line;
- ``cross URL FIRST SECOND WATCHED``: takes one lock, says ``held``, and at the next line wants the
  second one inside; it prints what became of that.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

from labshop.locks import DeadlockError, LockTimeout, Node, SingleLock, WaitForGraph

TTL_MS = 30_000


async def count(node: Node, key: str, tasks: str, times: str) -> None:
    waits_s: list[float] = []

    async def visit() -> None:
        for _ in range(int(times)):
            asked_s = time.monotonic()
            async with SingleLock(node, key, ttl_ms=TTL_MS).hold(wait_ms=60_000):
                waits_s.append(time.monotonic() - asked_s)
                seen = int(await node.command("GET", "count") or 0)
                await asyncio.sleep(0)
                await node.command("SET", "count", seen + 1)

    await asyncio.gather(*(visit() for _ in range(int(tasks))))
    say(f"{max(waits_s) * 1_000:.0f}")


async def hold(node: Node, key: str) -> None:
    await SingleLock(node, key, ttl_ms=TTL_MS).acquire(wait_ms=0)
    say("held")
    await asyncio.Event().wait()


async def take(node: Node, key: str, wait_ms: str) -> None:
    async with SingleLock(node, key, ttl_ms=TTL_MS).hold(wait_ms=float(wait_ms)) as lease:
        say(lease.token)
        await told()


async def cross(node: Node, first: str, second: str, watched: str) -> None:
    owner = WaitForGraph(node).owner("visitor")
    locks = [SingleLock(node, key, ttl_ms=TTL_MS) for key in (first, second)]
    outer, inner = [owner.watch(lock) for lock in locks] if watched == "watched" else locks
    try:
        async with outer.hold(wait_ms=5_000):
            say("held")
            await told()
            async with inner.hold(wait_ms=500 if watched != "watched" else 10_000):
                say("both")
    except (DeadlockError, LockTimeout) as error:
        say(f"{type(error).__name__}: {error}")


async def main(task: str, url: str, *rest: str) -> None:
    node = Node(url, timeout_ms=10_000)
    await node.ready()
    say("ready")
    await told()
    tasks: dict[str, Callable[..., Awaitable[None]]] = {
        "count": count,
        "hold": hold,
        "take": take,
        "cross": cross,
    }
    await tasks[task](node, *rest)
    await node.close()


async def told() -> None:
    await asyncio.to_thread(sys.stdin.readline)


def say(word: str) -> None:
    print(word, flush=True)  # noqa: T201  # the pipe to whoever started this process


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
