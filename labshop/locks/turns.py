"""Queues within one process: only the task at the head of a key's queue asks Redis.

A hundred tasks that all poll Redis for one key slow each other down, and the luckiest wins.
Within a process there is no need to: they take turns, first come, first served. Whoever leaves
sends its release, and the next one's request leaves right behind it, in the same write: on an
ordered connection that is safe, and saves a round trip.

Other processes wait too. So a process keeps the lock for `RUN` holders in a row at most, and
then hands it over.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

RUN = 16
"""Holders of one process in a row, while others wait; a hand-over costs two round trips more."""


@dataclass(eq=False)
class Visitor:
    """Someone who has the turn for a key, or waits for it."""

    key: str
    ask: Callable[[], object] | None
    turn: "asyncio.Future[None] | None" = None
    """Ends when the turn comes; None if it was there at once."""

    @property
    def has_the_turn(self) -> bool:
        """Whether it is this visitor's turn."""
        return self.turn is None or (self.turn.done() and not self.turn.cancelled())


@dataclass
class _Queue:
    run: int = 0
    waiting: deque[Visitor] = field(default_factory=deque)


class LocalTurns:
    """One first-in, first-out queue per key; a queue that is empty is forgotten."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    def __len__(self) -> int:
        """How many keys have a queue."""
        return len(self._queues)

    def count(self, key: str) -> int:
        """How many have the turn for a key, or wait for it."""
        queue = self._queues.get(key)
        return 0 if queue is None else 1 + len(queue.waiting)

    def enter(self, key: str, ask: Callable[[], object] | None = None) -> Visitor:
        """Queue for a key; whoever enters must `leave`, whether the turn came or not.

        Args:
            key: what is locked.
            ask: sends the visitor's request; called in the moment in which the turn comes, if it
                had to be waited for. None for one who needs other turns first.

        Returns:
            The visitor; it has the turn, or its `turn` is to come.
        """
        visitor = Visitor(key, ask)
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = _Queue()
        else:
            visitor.turn = asyncio.get_running_loop().create_future()
            queue.waiting.append(visitor)
        return visitor

    def runs_on(self, key: str) -> bool:
        """Whether the next one of this process will ask at once, and may."""
        queue = self._queues[key]
        following = next((it for it in queue.waiting if _waits(it)), None)
        return following is not None and following.ask is not None and queue.run + 1 < RUN

    def leave(self, visitor: Visitor) -> None:
        """Give the turn to the next one, whose request is sent before this returns."""
        queue = self._queues.get(visitor.key)
        if not visitor.has_the_turn:
            assert visitor.turn is not None
            visitor.turn.cancel()
            if queue is not None and visitor in queue.waiting:
                queue.waiting.remove(visitor)
            return
        assert queue is not None
        queue.run = queue.run + 1 if self.runs_on(visitor.key) else 0
        while queue.waiting:
            following = queue.waiting.popleft()
            if _waits(following):
                assert following.turn is not None
                if following.ask is not None:
                    following.ask()
                following.turn.set_result(None)
                return
        del self._queues[visitor.key]


def _waits(visitor: Visitor) -> bool:
    """Not for one who was cancelled in this very moment."""
    return visitor.turn is not None and not visitor.turn.done()
