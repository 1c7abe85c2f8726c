"""Probes: small purchases at a fixed beat, through each API, of a product that never runs out.

The problem: buyers who wait for an answer ask less while the shop is away, so an outage hides
itself from whoever counts their answers. The idea: a probe is sent at each beat, whatever became of
the last one; so time without service is counted as time. One that got no receipt goes on asking
under its key as a buyer would, so that the judge learns how it ended.
"""

import asyncio
import uuid
from collections.abc import Iterator, Mapping

import httpx2 as httpx

from labshop.judge.history import History, Operation
from labshop.judge.recorder import Recorder
from labshop.lab.crowd import Buyer, press_buy
from labshop.lab.doors import AT_ONCE, HttpDoor
from labshop.shop.domain import Line

PRODUCT = 10
EVERY_S = 0.2
PROMPT_S = 2.0
"""Within this time an answer counts as service; later, the client has hung up."""
PATIENCE_S = 20.0
_AT = " at "


class Prober:
    """Sends probes through one API until told to stop.

    Args:
        api: its name.
        url: its address.
        tokens: of users who buy nothing else, each `per_user` times.
        stage: under which route.
        recorder: writes the history.
    """

    def __init__(
        self,
        api: str,
        url: str,
        tokens: Mapping[int, str],
        *,
        per_user: int,
        stage: str,
        recorder: Recorder,
    ) -> None:
        self._api, self._url, self._tokens = api, url, tokens
        self._users = [user for user in tokens for _ in range(per_user)]
        self._stage = stage
        self._recorder = recorder

    async def run(self, stop: asyncio.Event) -> None:
        """Probe until stopped, and then until each probe has its end."""
        limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async with (
            httpx.AsyncClient(limits=limits, timeout=PROMPT_S) as client,
            asyncio.TaskGroup() as probes,
        ):
            door = HttpDoor(client, [self._url], self._tokens, self._stage)
            for beat, user in enumerate(self._users):
                if stop.is_set():
                    break
                probes.create_task(self._probe(door, beat, user))
                await asyncio.sleep(began_s + (beat + 1) * EVERY_S - loop.time())

    async def _probe(self, door: HttpDoor, beat: int, user: int) -> None:
        name, key = f"probe {beat}{_AT}{self._api}", str(uuid.uuid4())
        buyer = Buyer(name, user, (Line(PRODUCT, 1),), key, patience_s=PATIENCE_S)
        await press_buy([buyer], door, self._recorder)


def probes_of(history: History, api: str) -> Iterator[Operation]:
    """Every attempt of every probe through an API, in the order of their beginning."""
    return (buy for buy in history.of("buy") if buy.process.endswith(f"{_AT}{api}"))


def served_since(history: History, api: str, since_ms: float) -> float | None:
    """When an API first gave a probe its receipt that was asked for after a moment, if it did."""
    ends = (
        buy.ended_ms
        for buy in probes_of(history, api)
        if buy.outcome == "ok" and buy.invoked_ms >= since_ms and buy.ended_ms is not None
    )
    return min(ends, default=None)


def first_attempts(history: History) -> dict[str, Operation]:
    """The first attempt of each probe, by its name."""
    first: dict[str, Operation] = {}
    for buy in history.of("buy"):
        if _AT in buy.process:
            first.setdefault(buy.process, buy)
    return first


def is_prompt(attempt: Operation) -> bool:
    """Whether a probe got its receipt in time."""
    took_ms = (attempt.ended_ms or float("inf")) - attempt.invoked_ms
    return attempt.outcome == "ok" and took_ms <= PROMPT_S * 1_000
