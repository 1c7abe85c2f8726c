"""A bulkhead: so many at once and no more, so that one leak does not sink the ship.

The problem: a queue without an end turns an overload into a wait without an end, and into memory.
The idea: a number of places inside, and a number of places in a queue in front of them, first
come, first served. When both are taken, whoever comes is refused at once, and told when to come
again.

Whoever waits when the deadline passes is refused too, and leaves the queue; so does whoever is
cancelled, also in the moment in which a place is handed over: it goes to the next one then.

It does not promise fairness between users: that is what `labshop.resilience.bucket` is for. A task
that is inside already and comes once more would wait for itself, and gets a `RuntimeError`.

Source: M. Nygard, "Release It!" (2007); the places are `anyio.CapacityLimiter`.
"""

from types import TracebackType

import anyio

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
        self._places = anyio.CapacityLimiter(limit)
        self._room = limit + queue
        self._present = 0
        self._retry_after_ms = retry_after_ms

    @property
    def inside(self) -> int:
        """How many are inside."""
        return self._places.borrowed_tokens

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._present - self.inside

    async def __aenter__(self) -> None:
        """Come in, or wait for it.

        Raises:
            BulkheadFull: at once; all places are taken.
            DeadlineExceeded: the caller's time was over before there was a place.
        """
        if self._present >= self._room:
            raise BulkheadFull(self.name, self._retry_after_ms)
        self._present += 1
        try:
            await self._take_place()
        except BaseException:
            self._present -= 1
            raise

    async def _take_place(self) -> None:
        try:
            self._places.acquire_nowait()
        except anyio.WouldBlock:
            async with until_deadline():
                await self._places.acquire()

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._places.release()
        self._present -= 1
