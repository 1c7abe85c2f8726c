"""A timeout for everybody who is equally patient: one timer serves them all.

The problem: a server that handles thousands of requests a second gives each a timeout, and nearly
none ever expires; yet setting a timer and taking it back costs more than many a step that it
guards. The idea: where all are equally patient, whoever began first is due first. So they stand in
a line, and one timer watches its head.

It ends a body as `asyncio.timeout` does: by cancelling its task, and by a `TimeoutError` in place
of that cancellation; a cancellation from elsewhere passes.
"""

import asyncio
from types import TracebackType
from typing import Self


class Patience:
    """How long each of many bodies may take: ``with patience.limit(): ...``.

    Args:
        timeout_s: for each, in seconds.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._line: dict[Limit, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def limit(self) -> "Limit":
        """For the body of a ``with``; its time begins with it."""
        return Limit(self)

    def enter(self, limit: "Limit") -> None:
        """Stand in the line, behind all who came before."""
        loop = asyncio.get_running_loop()
        limit.due_s = loop.time() + self._timeout_s
        self._line[limit] = None
        if self._timer is None:
            self._timer = loop.call_at(limit.due_s, self._look)

    def leave(self, limit: "Limit") -> None:
        """Leave the line."""
        self._line.pop(limit, None)

    def _look(self) -> None:
        """Expire who is due, and come again when the next one will be."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        while self._line:
            limit = next(iter(self._line))
            if limit.due_s > now_s:
                self._timer = loop.call_at(limit.due_s, self._look)
                return
            del self._line[limit]
            limit.expire()


class Limit:
    """The time of one body."""

    __slots__ = ("_cancelling", "_patience", "_task", "due_s", "has_expired")

    def __init__(self, patience: Patience) -> None:
        self.due_s = 0.0
        self.has_expired = False
        self._patience = patience

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be given a limit")
        self._task = task
        self._cancelling = task.cancelling()
        self._patience.enter(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """End in time, or tell of having been ended.

        Raises:
            TimeoutError: the time was over, and nothing else was in the way.
        """
        if not self.has_expired:
            self._patience.leave(self)
        elif self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """End the body."""
        self.has_expired = True
        self._task.cancel()
