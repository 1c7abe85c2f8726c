"""A bulkhead: so many at once and no more, so that one leak does not sink the ship.

The problem: a queue without an end turns an overload into a wait without an end, and into memory.
The idea: a number of places inside, and a number of places in a queue in front of them, first
come, first served. When both are taken, whoever comes is refused at once, and told when to come
again.

Whoever waits when the deadline passes is refused too, and leaves the queue; so does whoever is
cancelled, also in the moment in which a place is handed over: it goes to the next one then.

It does not promise fairness between users: that is what `labshop.resilience.bucket` is for. Nor
does it know who is inside: a task that comes in once more, when all places are taken, waits for
itself until its deadline.

Source: M. Nygard, "Release It!" (2007). Why not `anyio.CapacityLimiter`, which knows who is inside:
asking who asks costs more than all the rest of a purchase's protection, and nobody comes twice.
"""

import asyncio
from collections import deque
from contextlib import suppress
from types import TracebackType

from labshop.resilience.deadline import until_deadline
from labshop.resilience.errors import BulkheadFull


class Bulkhead:
    """``async with bulkhead:`` is inside.

    Args:
        name: of what it protects.
        limit: so many may be inside.
        queue: so many more may wait.
        retry_after_ms: what a refused caller is told.
    """

    def __init__(
        self, name: str, *, limit: int, queue: int = 0, retry_after_ms: float = 1_000
    ) -> None:
        if limit < 1:
            raise ValueError("a bulkhead without a place lets nobody in")
        self.name = name
        self.inside = 0
        """How many are inside."""
        self.refused = 0
        """How many have been turned away."""
        self._limit = limit
        self._queue = queue
        self._line: deque[asyncio.Future[None]] = deque()
        self._retry_after_ms = retry_after_ms

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._line)

    @property
    def room(self) -> int:
        """How many may be inside and wait together."""
        return self._limit + self._queue

    @property
    def is_full(self) -> bool:
        """Whether the next one would be refused."""
        return self.inside >= self._limit and len(self._line) >= self._queue

    async def __aenter__(self) -> None:
        """Come in, or wait for it.

        Raises:
            BulkheadFull: at once; all places are taken.
            DeadlineExceeded: the caller's time was over before there was a place.
        """
        # While somebody waits all places are taken: one that is freed is handed over.
        if self.inside < self._limit:
            self.inside += 1
        elif len(self._line) < self._queue:
            await self._wait()
        else:
            self.refused += 1
            raise BulkheadFull(self.name, self._retry_after_ms)

    async def _wait(self) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(place)
        try:
            async with until_deadline():
                await place
        except BaseException:
            if place.done() and not place.cancelled():
                # It was handed over in the very moment in which the wait was cut off.
                self._hand_over()
            with suppress(ValueError):
                self._line.remove(place)
            raise

    def _hand_over(self) -> None:
        """Give the place to the first in the line, or free it."""
        while self._line:
            place = self._line.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.inside -= 1

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._hand_over()
