"""What every lock here promises: one Protocol, one kind of lease, one hook for events.

A lock in Redis is a *lease*: it ends by itself after its time to live, so that a crashed
holder blocks nobody for ever. The price is that a paused holder may wake up after the end
and not know it. Hence every lease can carry a *fencing token*, a number that only grows, which
the store being protected compares: it refuses a writer whose token is older than one it saw.

A lock does not promise that its holder is alone at the moment of writing; the fence does.
See M. Kleppmann, "How to do distributed locking" (2016), and the page "Distributed Locks
with Redis" in the Redis documentation.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol


class Lease(Protocol):
    """One acquisition of a lock: an immutable value."""

    @property
    def key(self) -> str:
        """The key that is locked; of several, their names joined by commas."""

    @property
    def token(self) -> str:
        """A random word that only this holder knows."""

    @property
    def fence(self) -> int:
        """A number greater than that of every earlier lease on this key; 0 where there is none."""

    def remaining_ms(self) -> float:
        """Time left by this process' monotonic clock, in milliseconds; negative when over."""

    async def extend(self, ttl_ms: int) -> "Lease":
        """Prolong the lease to `ttl_ms` from the moment of asking, and return the new one.

        Raises:
            LockLost: the key is no longer ours.
        """


class Lock(Protocol):
    """What a stage needs of a lock."""

    def hold(self, *, wait_ms: float) -> AbstractAsyncContextManager[Lease]:
        """Acquire for the length of an ``async with`` body, and release in any case.

        Args:
            wait_ms: how long to wait for the lock at most, in milliseconds.

        Raises:
            LockTimeout: it was not free in time.
            NodeError, NoQuorum: too few nodes could be asked.
        """


LockEventKind = Literal[
    "waiting",
    "acquired",
    "timed_out",
    "extended",
    "released",
    "lost",
    "abandoned",
    "deadlocked",
    "forced",
]


@dataclass(frozen=True)
class LockEvent:
    """Something that happened to a lock, for metrics, timelines and the judge.

    `waiting`: it was not free at once. `timed_out`: the wait was over first. `abandoned`: the
    release could not be delivered, so the time to live ends the lease. `deadlocked`: the waiter
    gave way to end a cycle. `forced`: an administrator, the `actor`, ended the lease.
    """

    kind: LockEventKind
    key: str
    token: str
    at_ms: float
    """By the monotonic clock of the process that reports it."""
    fence: int = 0
    waited_ms: float = 0.0
    held_ms: float = 0.0
    until_ms: float = 0.0
    """Until when the holder may believe that it holds the lock, as far as is known by this event:
    the lease's deadline; at its end, the moment at which the release was asked for."""
    actor: str = ""


LockEventHook = Callable[[LockEvent], None]


def ignore_event(_event: LockEvent) -> None:
    """The hook of a lock that nobody watches."""
