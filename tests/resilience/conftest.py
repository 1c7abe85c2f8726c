"""A clock that stands still until the test moves it."""

import asyncio

import pytest


class OwnedClock:
    """Time as the test says it is."""

    def __init__(self) -> None:
        self.ms = 1_000.0
        self.slept_ms: list[float] = []

    def now_ms(self) -> float:
        return self.ms

    def wall_s(self) -> float:
        return 0.0

    async def sleep_ms(self, duration_ms: float) -> None:
        """Be there at once: what is asserted is how long somebody meant to sleep."""
        self.slept_ms.append(duration_ms)
        self.ms += duration_ms
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> OwnedClock:
    return OwnedClock()


async def turns() -> None:
    """Let all tasks go on until each of them waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)
