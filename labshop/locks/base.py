"""What every lock here promises: one Protocol, one kind of lease, one tree of errors.

A lock in Redis is a *lease*: it ends by itself after its time to live, so that a crashed
holder blocks nobody for ever. The price is that a paused holder may wake up after the end
and not know it. Hence every lease carries a *fencing token*, a number that only grows, which
the store being protected compares: it refuses a writer whose token is older than one it saw.

    LockError
    ├── LockTimeout    waited as long as was allowed and never held the lock
    ├── LockLost       the lease had ended, or is another's by now
    └── NodeError      see `labshop.locks.connection`
        ├── NodeDown     the command was not sent
        ├── NodeRefused  the node answered with an error
        └── NodeSilent   sent, and no answer: nobody knows whether it was carried out

A lock does not promise that its holder is alone at the moment of writing; the fence does.
See M. Kleppmann, "How to do distributed locking" (2016), and the page "Distributed Locks
with Redis" in the Redis documentation.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol


class LockError(Exception):
    """Any failure of a lock."""

    definite = True
    """False when nobody knows whether the command took effect."""


class LockTimeout(LockError):
    """The lock was held by others for as long as the caller was ready to wait."""

    def __init__(self, key: str, wait_ms: float) -> None:
        super().__init__(f"{key} was not free within {wait_ms:.0f} ms")
        self.key = key
        self.wait_ms = wait_ms


class LockLost(LockError):
    """The lease has ended: its time ran out, or its key was removed."""

    def __init__(self, key: str, token: str) -> None:
        super().__init__(f"the lease on {key} has ended")
        self.key = key
        self.token = token


class Lease(Protocol):
    """One acquisition of a lock: an immutable value."""

    @property
    def key(self) -> str:
        """The key that is locked."""

    @property
    def token(self) -> str:
        """A random word that only this holder knows."""

    @property
    def fence(self) -> int:
        """A number greater than that of every earlier lease on this key."""

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
            NodeError: the node could not be asked.
        """


LockEventKind = Literal["acquired", "timed_out", "extended", "released", "lost", "abandoned"]


@dataclass(frozen=True)
class LockEvent:
    """Something that happened to a lock, for metrics, timelines and the judge.

    `abandoned` means that the release could not be delivered: the time to live ends the lease.
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


LockEventHook = Callable[[LockEvent], None]


def ignore_event(_event: LockEvent) -> None:
    """The hook of a lock that nobody watches."""
