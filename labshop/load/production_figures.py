"""What stage v4 costs, against the empty route of the same server, under a real load generator.

The problem: on two shared cores the generator takes from the server what it measures. The idea: the
server keeps to one core and wrk to the other; bursts of purchases and of empty requests take turns;
what counts is the ratio, above all that of the server's CPU time. Every purchase that is counted
was verified, reserved, and committed to disk before it was answered.

It says nothing about a network. Redis runs on whichever core has time, as it would beside any API.
"""

import statistics
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import psutil
from sqlmodel import update

from labshop.lab.session import Lab, open_lab
from labshop.load.figure import Figure
from labshop.load.pace import ask_at_a_pace
from labshop.load.wrk import SERVER_CORE, burst, is_possible
from labshop.stack.ports import LOOPBACK
from labshop.storage.tables import SaleWindow

ROUNDS = 3
CONNECTIONS = (50, 200, 1_000)
BURST_S = 3
USERS = 5_000
PACE_PER_S, PACE_S, PACE_CONNECTIONS = 1_000, 5, 256
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


async def production_figures(folder: Path) -> list[Figure]:
    """Measure v4; nothing, where there is no wrk or only one core.

    Args:
        folder: for wrk's script and its tokens.
    """
    if not is_possible():
        return []
    lab = await open_lab(name="bench", node_timeout_ms=10_000)
    try:
        tokens = await endless_sale(lab)
        return await _measure(lab, buying_script(folder, tokens), tokens)
    finally:
        await lab.close()


async def endless_sale(lab: Lab) -> list[str]:
    """A product that does not sell out; returns the tokens of buyers whom no limit stops."""
    with lab.shop.database.writing() as session:
        session.execute(update(SaleWindow).values(limit_per_user=10**9))
        session.commit()
    await lab.put_on_sale(1, 10**8)
    users: list[int] = []
    while len(users) < USERS:
        users += await lab.buyers(1_000)
    return [lab.shop.tokens.issue(user) for user in users]


def buying_script(folder: Path, tokens: list[str]) -> Path:
    """A script for wrk, by which each request is a purchase of the next buyer."""
    (folder / "tokens").write_text("\n".join(tokens))
    script = folder / "buy.lua"
    script.write_text(SCRIPT.replace("TOKENS", str(folder / "tokens")).replace("BODY", BODY))
    return script


async def _measure(lab: Lab, script: Path, tokens: list[str]) -> list[Figure]:
    cpu: dict[int, list[float]] = {count: [] for count in CONNECTIONS}
    speed: dict[int, list[float]] = {count: [] for count in CONNECTIONS}
    per_s: dict[int, list[float]] = {count: [] for count in CONNECTIONS}
    with lab.serving() as api:
        server = psutil.Process(api.pid)
        server.cpu_affinity([SERVER_CORE])
        burst(server, f"{api.url}/null", connections=50, seconds=BURST_S)
        for _ in range(ROUNDS):
            for count in CONNECTIONS:
                null = burst(server, f"{api.url}/null", connections=count, seconds=BURST_S)
                buy = burst(server, api.url, "-s", str(script), connections=count, seconds=BURST_S)
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
