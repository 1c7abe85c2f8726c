"""From a claim to a lease: what all locks do alike when they are acquired and held."""

import math
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from labshop.clock import Clock
from labshop.locks.base import LockEvent, LockEventHook
from labshop.locks.claim import NotGranted, OnWait
from labshop.locks.errors import LockTimeout
from labshop.locks.lease import Claim, HeldLease, Holding
from labshop.locks.renewal import Renewal, renewed


class NewClaim(Claim, Protocol):
    """A claim that has not been granted yet."""

    @property
    def deadline_ms(self) -> float:
        """When it ends, once it has been granted."""

    async def take(self, wait_ms: float, on_wait: OnWait) -> int:
        """Wait until it is granted; returns the fencing token, 0 for none.

        Raises:
            NotGranted: others had it for as long as that. Other errors of its own.
        """


MakeClaim = Callable[[str], NewClaim]
"""Makes a claim, of its token."""


async def obtain(
    make: MakeClaim,
    keys: tuple[str, ...],
    wait_ms: float,
    clock: Clock,
    on_event: LockEventHook,
) -> HeldLease:
    """Wait for a claim, and tell of it.

    Raises:
        LockTimeout: it was not granted in time. Other errors of the claim.
    """
    if math.isnan(wait_ms):
        raise ValueError("nobody knows how long to wait for a lock that is waited for NaN ms")
    token = secrets.token_hex(16)
    claim, asked_ms = make(token), clock.now_ms()
    has_waited = False

    def tell_of_waiting() -> None:
        nonlocal has_waited
        if not has_waited:
            has_waited = True
            for key in keys:
                on_event(LockEvent("waiting", key, token, clock.now_ms()))

    try:
        fence = await claim.take(wait_ms, tell_of_waiting)
    except NotGranted:
        now_ms = clock.now_ms()
        for key in keys:
            on_event(LockEvent("timed_out", key, token, now_ms, waited_ms=now_ms - asked_ms))
        raise LockTimeout(",".join(keys), wait_ms) from None
    now_ms = clock.now_ms()
    holding = Holding(claim, clock, on_event, keys, token, fence, now_ms, claim.deadline_ms)
    try:
        holding.tell("acquired", holding.deadline_ms, waited_ms=now_ms - asked_ms)
    except BaseException:
        await holding.end()
        raise
    return holding.lease()


class Acquires(Protocol):
    """A lock that can be acquired."""

    async def acquire(self, *, wait_ms: float) -> HeldLease:
        """Acquire it."""


@asynccontextmanager
async def hold(lock: Acquires, wait_ms: float, renewal: Renewal | None) -> AsyncIterator[HeldLease]:
    """Hold a lock for the length of a body, and release it in any case.

    Raises:
        LockLost: it could not be renewed. Others: as `acquire`.
    """
    lease = await lock.acquire(wait_ms=wait_ms)
    try:
        if renewal is None:
            yield lease
        else:
            async with renewed(lease, renewal):
                yield lease
    finally:
        await lease.holding.end()
