"""Time as something that is handed in, so that a test can own it.

Durations come from a monotonic clock only: a wall clock can be set back in mid-lease.
The wall clock is for people and for `exp` in a token, never for a deadline.
"""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What the lab needs of time."""

    def now_ms(self) -> float:
        """Milliseconds on a monotonic clock, from an arbitrary start."""

    def wall_s(self) -> float:
        """Seconds since 1970 (UTC), as the machine believes."""

    async def sleep_ms(self, duration_ms: float) -> None:
        """Wait without holding the event loop."""


class SystemClock:
    """The machine's own clocks."""

    def now_ms(self) -> float:
        return time.monotonic_ns() / 1_000_000

    def wall_s(self) -> float:
        return time.time()

    async def sleep_ms(self, duration_ms: float) -> None:
        await asyncio.sleep(duration_ms / 1_000)
