"""What a purchase costs over HTTP, against the empty route of the same server.

The problem: a shared machine is twice as fast at one moment as at the next, so requests a second
are noise. The idea: in each round a burst of requests goes to the empty route `/null`, and equal
bursts buy by each stage, one hot product and then ten; what counts is the ratio, above all that of
the CPU time of the server's process, which is steadier than the clock.

Purchases a second and milliseconds are told beside the roadmap's own figures. They are of this
machine, on which the load comes from the same two cores.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle

import httpx2 as httpx
import psutil

from labshop.lab.session import Lab, open_lab
from labshop.load.figure import Figure
from labshop.stack.shop_api import ApiProcess

ROUNDS = 5
REQUESTS_PER_ROUND = 300
CONNECTIONS = 50
STAGES = {"v1": 100, "v2": 200, "v3": 500}
"""Each with the purchases a second that the roadmap asks of it."""
PRODUCTS = {"one hot product": (1,), "ten products": tuple(range(1, 11))}
UNITS_EACH = 5
"""Of the ten that one user may buy."""
LOCKS = 400
ASKED_MS = 50
"""The roadmap's bound for a lock on five nodes without a delay."""
PERCENTILES = (50, 95, 99)

Work = Callable[[], Awaitable[None]]


async def purchase_figures() -> list[Figure]:
    """Measure purchases on servers of their own."""
    lab = await open_lab(name="bench", profile="03_redlock", node_timeout_ms=10_000)
    try:
        return [*await _purchases(lab), *await _time_to_lock(lab)]
    finally:
        await lab.close()


async def _purchases(lab: Lab) -> list[Figure]:
    wanted = (ROUNDS + 1) * REQUESTS_PER_ROUND * len(STAGES) * len(PRODUCTS)
    for product in PRODUCTS["ten products"]:
        await lab.put_on_sale(product, wanted)
    buyers = cycle(await lab.buyers(wanted // UNITS_EACH))
    cpu: dict[str, list[float]] = {}
    speed: dict[str, list[float]] = {}
    per_s: dict[str, list[float]] = {}
    with lab.serving() as api:
        limits = httpx.Limits(max_connections=CONNECTIONS)
        async with httpx.AsyncClient(base_url=api.url, limits=limits, timeout=60) as client:

            async def null() -> None:
                (await client.get("/null")).raise_for_status()

            def buying(stage: str, products: Iterator[int]) -> Work:
                async def buy() -> None:
                    token = lab.shop.tokens.issue(next(buyers))
                    answer = await client.post(
                        f"/{stage}/purchases",
                        json={"lines": [{"product_id": next(products), "quantity": 1}]},
                        headers={"Authorization": f"Bearer {token}"},
                    )
                    answer.raise_for_status()

                return buy

            await _burst(api, null)
            for _ in range(ROUNDS):
                for stage in STAGES:
                    for where, products in PRODUCTS.items():
                        null_cpu_s, null_s = await _burst(api, null)
                        buy_cpu_s, buy_s = await _burst(api, buying(stage, cycle(products)))
                        name = f"{stage}, {where}"
                        cpu.setdefault(name, []).append(buy_cpu_s / null_cpu_s)
                        speed.setdefault(name, []).append(null_s / buy_s)
                        per_s.setdefault(name, []).append(REQUESTS_PER_ROUND / buy_s)
    asked = ", ".join(f"{tps} of {stage}" for stage, tps in STAGES.items())
    meanings = {
        "CPU / null": ("server CPU a purchase; 1 is the empty route's", cpu),
        "speed / null": ("purchases a second; 1 is the empty route's requests", speed),
        "purchases/s": (f"on this machine, load included; the roadmap asks for {asked}", per_s),
    }
    return [
        Figure.of(f"{name}, {what}", meaning, values)
        for what, (meaning, by_name) in meanings.items()
        for name, values in by_name.items()
    ]


async def _time_to_lock(lab: Lab) -> list[Figure]:
    """From asking for the lock of v3 on five nodes to holding it, nobody else wanting it."""
    lock, clock = lab.shop.quorum_lock("bench"), lab.shop.clock
    rounds: dict[int, list[float]] = {percentile: [] for percentile in PERCENTILES}
    for _ in range(ROUNDS):
        waits: list[float] = []
        for _ in range(LOCKS):
            asked_ms = clock.now_ms()
            async with lock.hold(wait_ms=10_000):
                waits.append(clock.now_ms() - asked_ms)
        cuts = statistics.quantiles(waits, n=100)
        for percentile, values in rounds.items():
            values.append(cuts[percentile - 1])
    return [
        Figure.of(
            f"v3, time to lock, P{percentile} (ms)",
            f"a fencing token from the ledger included; the roadmap asks for {ASKED_MS} ms",
            values,
        )
        for percentile, values in rounds.items()
    ]


async def _burst(api: ApiProcess, request: Work) -> tuple[float, float]:
    """One round of requests; the server's CPU seconds, and the seconds it took."""
    process = psutil.Process(api.pid)
    before, began = process.cpu_times(), time.perf_counter()
    await asyncio.gather(*(request() for _ in range(REQUESTS_PER_ROUND)))
    after = process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return cpu_s, time.perf_counter() - began
