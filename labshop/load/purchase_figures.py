"""What a purchase costs over HTTP, against the empty route of the same server.

The problem: a shared machine is twice as fast at one moment as at the next, so requests a second
are noise. The idea: in each round a burst of requests goes to the empty route `/null` and an
equal burst buys one hot product; what counts is the ratio, above all that of the CPU time of the
server's process, which is steadier than the clock.

It says nothing about a network, and not how many requests another machine would answer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import httpx2 as httpx
import psutil

from labshop.lab.session import Lab, open_lab
from labshop.load.figure import Figure
from labshop.stack.shop_api import ApiProcess

ROUNDS = 7
REQUESTS_PER_ROUND = 600
CONNECTIONS = 50
PRODUCT = 1

Work = Callable[[], Awaitable[None]]


async def purchase_figures() -> list[Figure]:
    """Measure purchases on servers of their own."""
    lab = await open_lab(name="bench", node_timeout_ms=10_000)
    try:
        return await _purchases(lab)
    finally:
        await lab.close()


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
