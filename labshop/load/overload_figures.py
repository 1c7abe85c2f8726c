"""What becomes of stage v4 under ten times the load that keeps it busy.

The problem: a shop that does a little for everybody who comes does all for nobody, once enough
come. The idea: ten crowds come at once, each of which keeps the server busy by itself, and each of
their members asks again as soon as there is an answer, whatever it was told. Among them comes, at a
steady pace, a buyer on a new connection, who asks once: how long such a buyer waits, be it for an
order or for a refusal, is what is told here. What was booked or refused, the server counts.

Ten times the requests a second cannot be offered: no generator on one core sends them, and no
server on one core reads them. It says nothing about a crowd that connects anew for each request.
"""

import asyncio
import re
import statistics
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import psutil

from labshop.lab.session import open_lab
from labshop.load.figure import Figure
from labshop.load.production_figures import BODY, buying_script, endless_sale
from labshop.load.wrk import SERVER_CORE, Burst, burst, is_possible
from labshop.stack.ports import LOOPBACK
from labshop.stack.probe import http_get

CONNECTIONS, PEAK_S = 200, 5
OVERLOAD, OVERLOAD_S = 10, 30
SETTLE_S = 10
"""After which the memory is looked at for the first time."""
PROBES_PER_S = 40
ANSWER_S = 10
WAITS = {"wait of the served": 201, "time to refuse": 503}
PERCENTILES, FEWEST = (50, 99), 20

Probe = tuple[int, float]
"""A status, and milliseconds from connecting to it."""


async def overload_figures(folder: Path) -> list[Figure]:
    """Measure v4 at its peak, then beyond, then at its peak again.

    Args:
        folder: for wrk's script and its tokens.

    Returns:
        Nothing, where there is no wrk or only one core.
    """
    if not is_possible():
        return []
    lab = await open_lab(name="bench", node_timeout_ms=10_000)
    try:
        tokens = await endless_sale(lab)
        script = buying_script(folder, tokens)
        with lab.serving() as api:
            return await _measure(api.url, psutil.Process(api.pid), script, tokens)
    finally:
        await lab.close()


async def _measure(
    url: str, server: psutil.Process, script: Path, tokens: list[str]
) -> list[Figure]:
    server.cpu_affinity([SERVER_CORE])

    async def rush(connections: int, seconds: int) -> tuple[Burst, float]:
        """The burst, and the share of the requests that were refused at once."""
        before = _counts(url)
        brought = await asyncio.to_thread(
            burst, server, url, "-s", str(script), connections=connections, seconds=seconds
        )
        booked, refused = (after - was for after, was in zip(_counts(url), before, strict=True))
        return brought, refused / (booked + refused)

    await rush(CONNECTIONS, 1)
    peak = [await rush(CONNECTIONS, PEAK_S)]
    async with asyncio.TaskGroup() as tasks:
        overload = tasks.create_task(rush(OVERLOAD * CONNECTIONS, OVERLOAD_S))
        probing = tasks.create_task(_probe(url, tokens))
        growth = tasks.create_task(_growth(server))
    peak.append(await rush(CONNECTIONS, PEAK_S))
    bursts = [brought for brought, _ in peak]
    brought, share = overload.result()
    return [
        *_goodput(brought, share, bursts),
        *_waits(probing.result()),
        Figure.of(
            "v4, overload, memory",
            f"of the server, at the end; 1 is what it had {SETTLE_S} s after the rush began",
            [growth.result()],
        ),
    ]


def _goodput(brought: Burst, share: float, peak: list[Burst]) -> Iterator[Figure]:
    crowd = f"{OVERLOAD * CONNECTIONS} connections for {OVERLOAD_S} s, each asking again at once"
    yield Figure.of(
        "v4, overload, purchases/s / peak",
        f"{crowd}; 1 is what {CONNECTIONS} get, before and after",
        [brought.per_s / each.per_s for each in peak],
    )
    yield Figure.of(
        "v4, overload, CPU / peak",
        "server CPU a purchase, refusals included; steadier on a shared machine",
        [brought.cpu_us / each.cpu_us for each in peak],
    )
    yield Figure.of(
        "v4, overload, refused", "share of the requests, by the server's own count", [share]
    )


def _waits(probes: list[Probe]) -> Iterator[Figure]:
    meaning = f"of {len(probes)} buyers who come once, on connections of their own, amid the rush"
    for what, status in WAITS.items():
        waits_ms = [wait_ms for told, wait_ms in probes if told == status]
        for percentile in PERCENTILES:
            name = f"v4, overload, {what}, P{percentile} (ms)"
            if len(waits_ms) < FEWEST:
                yield Figure(name, meaning, None, None, None, f"of {len(waits_ms)} only")
            else:
                cuts = statistics.quantiles(waits_ms, n=100)
                yield Figure.of(name, meaning, [cuts[percentile - 1]])
    lost = sum(told not in WAITS.values() for told, _ in probes)
    yield Figure.of("v4, overload, told anything else", meaning, [lost])


async def _growth(server: psutil.Process) -> float:
    await asyncio.sleep(SETTLE_S)
    settled = server.memory_info().rss
    await asyncio.sleep(OVERLOAD_S - SETTLE_S - 1)
    return float(server.memory_info().rss / settled)


async def _probe(url: str, tokens: list[str]) -> list[Probe]:
    """Let buyers come one by one, at a steady pace, as long as the rush lasts."""
    port, buyers = int(url.rsplit(":", 1)[1]), cycle(reversed(tokens))
    began_s = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        asked = []
        for number in range(PROBES_PER_S * (OVERLOAD_S - SETTLE_S)):
            due_s = began_s + number / PROBES_PER_S
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            asked.append(tasks.create_task(_ask_once(port, next(buyers))))
    return [probe.result() for probe in asked]


async def _ask_once(port: int, token: str) -> Probe:
    """One purchase on a connection of its own; the status is 0 where there was no answer."""
    request = (
        f"POST /v4/purchases HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n"
        f"Connection: close\r\n\r\n{BODY}"
    )
    began_s = time.perf_counter()
    status = 0
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(request.encode())
                status = int((await reader.readline()).split()[1])
            finally:
                writer.close()
    except (OSError, TimeoutError, IndexError):
        pass
    return status, (time.perf_counter() - began_s) * 1_000


def _counts(url: str) -> tuple[float, float]:
    """Purchases of v4 that this server has booked, and those that it has refused at once."""
    _, text = http_get(f"{url}/metrics", ANSWER_S)
    return (
        _counter(text, 'labshop_purchases_total{outcome="booked",stage="v4"}'),
        _counter(text, 'labshop_turned_away_total{reason="full",stage="v4"}'),
    )


def _counter(text: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found is not None, series
    return float(found[1])
