"""What things cost, as ratios within one run.

The problem: a shared machine is twice as fast at one moment as at the next, so absolute times
are noise. The idea: each figure is measured beside its yardstick, in turn, several times, and
reported as the median of the ratios with their spread.

- A lock's yardstick is one raw `SET NX PX` and one raw `EVALSHA` on the same connection; beside
  it stands redis-py's lock against the same pair on redis-py.
- A purchase's yardstick is the empty route `/null` of the same server, in CPU time of the
  server's process per request: that is steadier than the clock.

It says nothing about another machine, and nothing about a network.
"""

import asyncio
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from labshop.lab.session import Lab, open_lab
from labshop.locks import SingleLock
from labshop.lua import load_script
from labshop.stack.shop_api import ApiProcess

ROUNDS = 7
LOCKS_PER_ROUND = 400
REQUESTS_PER_ROUND = 600
CONNECTIONS = 50
PRODUCT = 1

Work = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Figure:
    """A measured ratio: the median of all rounds, the least and the greatest."""

    name: str
    meaning: str
    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, name: str, meaning: str, ratios: Sequence[float]) -> "Figure":
        return cls(name, meaning, statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        spread = f"{self.least:.2f} to {self.greatest:.2f}"
        return f"{self.name:28} {self.median:6.2f}   ({spread:15}) {self.meaning}"


def run_bench(output: Path) -> list[Figure]:
    """Measure everything, and write it down with machine and commit.

    Args:
        output: a JSON file; its folder is made.
    """
    figures = asyncio.run(_measure())
    output.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": _machine(), "figures": [asdict(figure) for figure in figures]}
    output.write_text(json.dumps(content, indent=1) + "\n")
    return figures


async def _measure() -> list[Figure]:
    lab = await open_lab(name="bench", node_timeout_ms=10_000)
    try:
        return [*await _locks(lab), *await _purchases(lab)]
    finally:
        await lab.close()


async def _locks(lab: Lab) -> list[Figure]:
    release = load_script("labshop.locks", "release_lock")
    node, lock = lab.node, SingleLock(lab.node, "bench", ttl_ms=10_000)
    peer = redis.asyncio.Redis(host=node.host, port=node.port, retry=Retry(NoBackoff(), 0))
    sha = await peer.script_load(release.source)

    async def raw() -> None:
        await node.command("SET", "raw", "token", "NX", "PX", 10_000)
        await node.command("EVALSHA", release.sha, 1, "raw", "token")

    async def ours() -> None:
        async with lock.hold(wait_ms=1_000):
            pass

    async def peers_raw() -> None:
        await peer.set("raw", "token", nx=True, px=10_000)
        await peer.evalsha(sha, 1, "raw", "token")

    async def peers() -> None:
        async with peer.lock("peer", timeout=10):
            pass

    ratios: dict[str, list[float]] = {"ours": [], "peers": [], "ours_to_peers": []}
    for _ in range(ROUNDS):
        times = [await _seconds(work) for work in (raw, ours, peers_raw, peers)]
        ratios["ours"].append(times[0] / times[1])
        ratios["peers"].append(times[2] / times[3])
        ratios["ours_to_peers"].append(times[3] / times[1])
    await peer.aclose()
    return [
        Figure.of("lock / raw pair", "uncontended; 1 is the raw pair's speed", ratios["ours"]),
        Figure.of("redis-py / its raw pair", "the same for redis-py's Lock", ratios["peers"]),
        Figure.of("lock / redis-py", "locks a second against redis-py's", ratios["ours_to_peers"]),
    ]


async def _seconds(work: Work) -> float:
    began = time.perf_counter()
    for _ in range(LOCKS_PER_ROUND):
        await work()
    return time.perf_counter() - began


async def _purchases(lab: Lab) -> list[Figure]:
    wanted = ROUNDS * REQUESTS_PER_ROUND
    await lab.put_on_sale(PRODUCT, wanted)
    tokens = [lab.shop.tokens.issue(user_id) for user_id in await lab.buyers(wanted)]
    body = {"lines": [{"product_id": PRODUCT, "quantity": 1}]}
    cpu: list[float] = []
    clock: list[float] = []
    with lab.serving() as api:
        limits = httpx.Limits(max_connections=CONNECTIONS)
        async with httpx.AsyncClient(base_url=api.url, limits=limits, timeout=60) as client:

            async def null() -> None:
                (await client.get("/null")).raise_for_status()

            async def buy() -> None:
                headers = {"Authorization": f"Bearer {tokens.pop()}"}
                answer = await client.post("/v1/purchases", json=body, headers=headers)
                answer.raise_for_status()

            await _burst(api, null)
            for _ in range(ROUNDS):
                null_cpu_s, null_s = await _burst(api, null)
                buy_cpu_s, buy_s = await _burst(api, buy)
                cpu.append(buy_cpu_s / null_cpu_s)
                clock.append(null_s / buy_s)
    return [
        Figure.of("v1 purchase / null, CPU", "server CPU a request; 1 is the empty route's", cpu),
        Figure.of("v1 purchase / null, speed", "requests a second, one hot product", clock),
    ]


async def _burst(api: ApiProcess, request: Work) -> tuple[float, float]:
    """One round of requests; the server's CPU seconds, and the seconds it took."""
    process = psutil.Process(api.pid)
    before, began = process.cpu_times(), time.perf_counter()
    await asyncio.gather(*(request() for _ in range(REQUESTS_PER_ROUND)))
    after = process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return cpu_s, time.perf_counter() - began


def _machine() -> dict[str, Any]:
    commit = subprocess.run(
        ("git", "rev-parse", "HEAD"),  # noqa: S607  # git is found as the shell finds it
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or None,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
