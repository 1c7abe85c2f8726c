"""What stage v4 costs, against the empty route of the same server, under a real load generator.

The problem: on two shared cores the generator takes from the server what it measures. The idea: the
server keeps to one core and wrk to the other; bursts of purchases and of empty requests take turns;
what counts is the ratio, above all that of the server's CPU time. Every purchase that is counted
was verified, reserved, and committed to disk before it was answered.

It says nothing about a network. Redis runs on whichever core has time, as it would beside any API.
"""

import re
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import psutil
from sqlmodel import update

from labshop.lab.session import Lab, open_lab
from labshop.load.figure import Figure
from labshop.load.pace import ask_at_a_pace
from labshop.stack.ports import LOOPBACK
from labshop.storage.tables import SaleWindow

ROUNDS = 3
CONNECTIONS = (50, 200, 1_000)
BURST_S = 3
USERS = 5_000
PACE_PER_S, PACE_S, PACE_CONNECTIONS = 1_000, 5, 256
SERVER_CORE, LOAD_CORE = 0, 1
BODY = '{"lines": [{"product_id": 1, "quantity": 1}]}'

SCRIPT = """
local tokens, n = {}, 0
for line in io.lines("TOKENS") do tokens[#tokens + 1] = line end
request = function()
  n = n % #tokens + 1
  local headers = {}
  headers["Authorization"], headers["Content-Type"] = "Bearer " .. tokens[n], "application/json"
  return wrk.format("POST", "/v4/purchases", headers, 'BODY')
end
"""


@dataclass(frozen=True)
class _Burst:
    per_s: float
    cpu_us: float


async def production_figures(folder: Path) -> list[Figure]:
    """Measure v4; nothing, where there is no wrk or only one core.

    Args:
        folder: for wrk's script and its tokens.
    """
    if shutil.which("wrk") is None or (psutil.cpu_count() or 1) <= LOAD_CORE:
        return []
    lab = await open_lab(name="bench", node_timeout_ms=10_000)
    try:
        tokens = await _prepare(lab)
        (folder / "tokens").write_text("\n".join(tokens))
        script = SCRIPT.replace("TOKENS", str(folder / "tokens")).replace("BODY", BODY)
        (folder / "buy.lua").write_text(script)
        return await _measure(lab, folder / "buy.lua", tokens)
    finally:
        await lab.close()


async def _prepare(lab: Lab) -> list[str]:
    """A product that does not sell out, and buyers whom no limit stops."""
    with lab.shop.database.writing() as session:
        session.execute(update(SaleWindow).values(limit_per_user=10**9))
        session.commit()
    await lab.put_on_sale(1, 10**8)
    users: list[int] = []
    while len(users) < USERS:
        users += await lab.buyers(1_000)
    return [lab.shop.tokens.issue(user) for user in users]


async def _measure(lab: Lab, script: Path, tokens: list[str]) -> list[Figure]:
    cpu: dict[int, list[float]] = {count: [] for count in CONNECTIONS}
    speed: dict[int, list[float]] = {count: [] for count in CONNECTIONS}
    per_s: dict[int, list[float]] = {count: [] for count in CONNECTIONS}
    with lab.serving() as api:
        server = psutil.Process(api.pid)
        server.cpu_affinity([SERVER_CORE])
        _wrk(server, f"{api.url}/null", 50)
        for _ in range(ROUNDS):
            for count in CONNECTIONS:
                null = _wrk(server, f"{api.url}/null", count)
                buy = _wrk(server, api.url, count, "-s", str(script))
                cpu[count].append(buy.cpu_us / null.cpu_us)
                speed[count].append(buy.per_s / null.per_s)
                per_s[count].append(buy.per_s)
        port = int(api.url.rsplit(":", 1)[1])
        paced = await ask_at_a_pace(
            LOOPBACK,
            port,
            _requests(tokens),
            per_s=PACE_PER_S,
            seconds=PACE_S,
            connections=PACE_CONNECTIONS,
        )
    cuts = statistics.quantiles(paced.latencies_ms, n=100)
    meaning = f"paced at {PACE_PER_S}/s for {PACE_S} s; the roadmap asks for P50 < 50, P99 < 200 ms"
    return [
        *_figures("v4, CPU / null", "server CPU a durable purchase; 1 is the empty route's", cpu),
        *_figures("v4, speed / null", "durable purchases a second; 1 is the empty route's", speed),
        *_figures("v4, purchases/s", "server and wrk on a core each; the roadmap: 1000", per_s),
        Figure.of("v4, P50 (ms)", meaning, [cuts[49]]),
        Figure.of("v4, P99 (ms)", meaning, [cuts[98]]),
        Figure.of("v4, refused or unanswered", meaning, [paced.refused + paced.unanswered]),
    ]


def _figures(name: str, meaning: str, values: dict[int, list[float]]) -> Iterator[Figure]:
    for count, ratios in values.items():
        yield Figure.of(f"{name}, {count} connections", meaning, ratios)


def _requests(tokens: list[str]) -> Iterator[bytes]:
    for token in cycle(tokens):
        yield (
            f"POST /v4/purchases HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}"
        ).encode()


def _wrk(server: psutil.Process, url: str, connections: int, *more: str) -> _Burst:
    """One burst; the server's CPU time of each request that was answered well."""
    before = server.cpu_times()
    told = subprocess.run(  # noqa: S603  # our own words, and the server's address
        (
            *("taskset", "-c", str(LOAD_CORE)) * (shutil.which("taskset") is not None),
            *("wrk", "-t1", f"-c{connections}", f"-d{BURST_S}s", *more, url),
        ),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    after = server.cpu_times()
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    count = int(_found(r"(\d+) requests in", told)) - (int(refused[1]) if refused else 0)
    cpu_s = after.user + after.system - before.user - before.system
    return _Burst(
        per_s=count / BURST_S,
        cpu_us=cpu_s / count * 1_000_000,
    )


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found[1]
