"""What happens in the shop, told to whoever listens in this process.

A listener that does not keep up loses the oldest events, never the shop's time: each has a
queue of bounded length. Listeners in other processes hear nothing.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

QUEUE_LENGTH = 256

EventKind = Literal["purchase", "cancellation", "lock", "breaker", "repair"]


@dataclass(frozen=True)
class Event:
    """One event; `details` are plain JSON values."""

    kind: EventKind
    details: dict[str, Any]


class EventBus:
    """Publish to all present listeners."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[Event]] = set()

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._queues)

    def publish(self, event: Event) -> None:
        """Tell every listener; never waits."""
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    @contextmanager
    def listen(self) -> Iterator[asyncio.Queue[Event]]:
        """A queue of what is published from here on, for the length of a ``with`` body."""
        queue: asyncio.Queue[Event] = asyncio.Queue(QUEUE_LENGTH)
        self._queues.add(queue)
        try:
            yield queue
        finally:
            self._queues.discard(queue)
