"""Queues within one process: only the task at the head of a key's queue asks Redis.

A hundred tasks that all poll Redis for one key slow each other down, and the luckiest wins.
Within a process there is no need to: they take turns, first come, first served, and a
release wakes exactly the next. Between processes this promises nothing; there, the heads of
the queues compete in Redis.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


class NoTurn(Exception):
    """The wait was over before the turn came."""


@dataclass
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class LocalTurns:
    """One first-in, first-out queue per key; a queue that is empty is forgotten."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    @asynccontextmanager
    async def take(self, key: str, *, wait_s: float) -> AsyncIterator[None]:
        """Hold this process' turn for a key.

        Raises:
            NoTurn: it did not come within `wait_s` seconds.
        """
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        try:
            try:
                async with asyncio.timeout(wait_s):
                    await turn.lock.acquire()
            except TimeoutError:
                raise NoTurn from None
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]
