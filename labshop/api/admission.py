"""Admission: whoever cannot be served in time is told so at once, before any work is done for it.

The problem: a purchase that is refused at its end has cost nearly as much as one that is served: a
token was checked, a body was read, an account looked up. When ten times as many come as can be
served, the refusals take all the time that there is, and nobody is served. The idea, in two steps:

- Each stage has so many places. When they are taken, a request is refused before it is looked at,
  with the same few bytes for everybody. So the wait of those who are served is bounded: it is the
  number of places, divided by what is served in a second.
- Whoever was told to come again later, and comes at once, is not listened to before that time: its
  connection is not read. The more are refused, the later they are told to come, so that no more
  than `HEARINGS_PER_S` of them are heard in a second. So impatience costs the shop nothing; what is
  sent meanwhile waits in the kernel's buffer, which is bounded too.

It does not promise anything against a crowd that connects anew for each request: that is for
whatever stands in front of the shop. A proxy there should not share one connection among buyers,
who would wait for each other's time.

Source: B. Beyer et al., "Site Reliability Engineering" (2016), chapter "Handling Overload".
"""

import math
from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from labshop.api.errors import answer_to
from labshop.clock import Clock
from labshop.ops.metrics import Metrics
from labshop.resilience import Bulkhead
from labshop.shop.errors import Overloaded

HEARINGS_PER_S = 500
"""A refusal costs 0.1 ms: so many are a twentieth of a core."""
SOONEST_S, LATEST_S = 1, 4
"""When a refused buyer may come again; a connection that rests for longer is closed."""
HOLD_OFF = "hold_off_s"
"""In a request's `state`: for how long its connection is not to be read after the answer."""


class Door:
    """The purchases of one stage: how many are under way, and whether there is room for one more.

    On the ordinary route a purchase is counted as soon as its body is there, ``with door: ...``:
    what the framework does for it costs more than what the stage does. On the fast lane, nothing
    lies between the body and the stage's bulkhead, and the bulkhead's own count will do.
    """

    def __init__(self, stage: str, bulkhead: Bulkhead) -> None:
        self.stage = stage
        self._bulkhead = bulkhead
        self._under_way = 0

    @property
    def is_full(self) -> bool:
        """Whether the next purchase is to be refused."""
        return self._bulkhead.is_full or self._under_way >= self._bulkhead.room

    def __enter__(self) -> None:
        self._under_way += 1

    def __exit__(self, *_end: object) -> None:
        self._under_way -= 1


def doors_of(bulkheads: Mapping[str, Bulkhead]) -> dict[str, Door]:
    """The door of each stage, by the path of its purchases."""
    return {f"/{stage}/purchases": Door(stage, bulkhead) for stage, bulkhead in bulkheads.items()}


class Admission:
    """ASGI application that refuses purchases for which there is no room, and hands all else on."""

    def __init__(
        self, app: ASGIApp, *, doors: Mapping[str, Door], metrics: Metrics, clock: Clock
    ) -> None:
        self._app = app
        self._doors = doors
        self._metrics = metrics
        self._clock = clock
        self._latest_s = 0.0
        """The moment for which whoever was refused last was told to come."""
        self._refusals = {
            seconds: answer_to(Overloaded("shop", "all its places are taken", seconds * 1_000))
            for seconds in range(SOONEST_S, LATEST_S + 1)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        door = self._doors.get(scope["path"]) if scope["type"] == "http" else None
        if door is None or not door.is_full or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._metrics.turned_away(door.stage, "full")
        hold_off_s = self._appoint()
        scope.setdefault("state", {})[HOLD_OFF] = hold_off_s
        await self._refusals[math.ceil(hold_off_s)](scope, receive, send)

    def _appoint(self) -> float:
        """In how many seconds the next one may come: behind all who were told so before."""
        now_s = self._clock.now_ms() / 1_000
        turn_s = max(self._latest_s + 1 / HEARINGS_PER_S, now_s + SOONEST_S)
        self._latest_s = min(turn_s, now_s + LATEST_S)
        # Rounded, for a sum of fractions is a little more than the whole.
        return round(self._latest_s - now_s, 3)
