"""A crowd of tasks that all want one lock: as a function, and as a process of its own.

The problem: a lock may be fast because nobody else asks, or because one task takes it again and
again while the others starve. The idea: each of many tasks takes the same lock many times, with
nothing to do in it, and notes how long each wait was; the total tells the speed, the longest
wait over the median the fairness.

As a process (``python -m labshop.load.contender URL KEY TASKS TIMES``) it says that it is ready,
waits for a line, and prints what became of it as JSON. It does not measure its own start.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

from labshop.load.peers import ON_ONE_NODE, Hold

TIMEOUT_MS = 10_000


@dataclass(frozen=True)
class Contest:
    """What became of a crowd; times in seconds of the machine's monotonic clock."""

    began_s: float
    ended_s: float
    waits_s: list[float]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Several crowds at once as one."""
        return cls(
            began_s=min(part.began_s for part in parts),
            ended_s=max(part.ended_s for part in parts),
            waits_s=[wait_s for part in parts for wait_s in part.waits_s],
        )

    @property
    def total_s(self) -> float:
        """From the first task's start to the last one's end."""
        return self.ended_s - self.began_s

    @property
    def unfairness(self) -> float:
        """The longest wait, in medians of all waits."""
        return max(self.waits_s) / statistics.median(self.waits_s)


async def contend(hold: Hold, keys: Sequence[str], *, times: int) -> Contest:
    """Let as many tasks as there are keys take one each, so many times.

    Args:
        hold: the library's lock on a key.
        keys: of each task; the same one for all to make them rivals.
        times: how often each task takes its lock.
    """
    waits_s: list[float] = []

    async def take(key: str) -> None:
        for _ in range(times):
            asked_s = time.monotonic()
            async with hold(key):
                waits_s.append(time.monotonic() - asked_s)
                await asyncio.sleep(0)

    began_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for key in keys:
            group.create_task(take(key))
    return Contest(began_s, time.monotonic(), waits_s)


async def contend_in_processes(
    url: str, key: str, *, processes: int, tasks: int, times: int
) -> Contest:
    """Let several processes at once be such a crowd each, on this package's lock."""
    arguments = (url, key, str(tasks), str(times))
    started: list[asyncio.subprocess.Process] = []
    try:
        for _ in range(processes):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "labshop.load.contender",
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            started.append(process)
        # They start side by side, and none runs before the last one is ready.
        await asyncio.gather(*(_readiness(process) for process in started))
        outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in started))
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()
    return Contest.joined([Contest(**json.loads(output)) for output, _ in outputs])


async def _readiness(process: asyncio.subprocess.Process) -> None:
    if process.stdout is None or not await process.stdout.readline():
        raise RuntimeError("a contender ended before it was ready")


async def _contend_when_told(url: str, key: str, tasks: int, times: int) -> None:
    ours = ON_ONE_NODE[0]
    async with ours.open([url], TIMEOUT_MS) as hold:
        async with hold(f"warm-up {os.getpid()}"):
            pass
        print("ready", flush=True)  # noqa: T201  # the pipe to whoever started this process
        if sys.stdin.readline():
            contest = await contend(hold, [key] * tasks, times=times)
            print(json.dumps(asdict(contest)))  # noqa: T201  # the same


if __name__ == "__main__":
    asyncio.run(_contend_when_told(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
