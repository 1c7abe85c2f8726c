"""Bursts of requests by wrk, and what each cost the server.

The problem: on two shared cores the generator takes from the server what it measures. The idea: the
server keeps to one core and wrk to the other, and what counts is the server's CPU time.

It says nothing about a network, and nothing about a machine with one core.
"""

import math
import re
import shutil
import subprocess
from dataclasses import dataclass

import psutil

SERVER_CORE, LOAD_CORE = 0, 1


@dataclass(frozen=True)
class Burst:
    """What a burst has brought: requests that were answered well, and what each of them cost.

    Where none was, `cpu_us` is infinite.
    """

    count: int
    per_s: float
    cpu_us: float


def is_possible() -> bool:
    """Whether there is a wrk, and a core for it."""
    return shutil.which("wrk") is not None and (psutil.cpu_count() or 1) > LOAD_CORE


def burst(server: psutil.Process, url: str, *more: str, connections: int, seconds: int) -> Burst:
    """Ask for so many seconds.

    Args:
        server: whose CPU time counts.
        url: what is asked for.
        more: arguments of wrk, before the URL.
        connections: how many requests are under way at once.
        seconds: for how long.
    """
    before = server.cpu_times()
    told = subprocess.run(  # noqa: S603  # our own words, and the server's address
        (
            *("taskset", "-c", str(LOAD_CORE)) * (shutil.which("taskset") is not None),
            *("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", *more, url),
        ),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    after = server.cpu_times()
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    count = int(_found(r"(\d+) requests in", told)) - (int(refused[1]) if refused else 0)
    cpu_s = after.user + after.system - before.user - before.system
    cpu_us = cpu_s / count * 1_000_000 if count else math.inf
    return Burst(count, count / seconds, cpu_us)


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found[1]
