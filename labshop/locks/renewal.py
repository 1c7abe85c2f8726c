"""Keeps a lease alive while its body runs, and ends the body when the lease is lost.

The problem: a time to live must be short, or a crash blocks everybody; and long, or an honest
holder loses the lock. The idea: keep it short, and prolong it while the holder is alive, a
bounded number of times, so that a holder that hangs for ever does not hold for ever.

A renewal lives no longer than the body. It only ever extends what is still ours. When nobody
can be asked, it tries again until the deadline; then the lease counts as lost.

It does not promise that the body stops before somebody else has the lock: the body may stand
still just then. Only the fence protects from that.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn

from labshop.locks.errors import LockLost, NodeError, NoQuorum
from labshop.locks.lease import HeldLease

RENEW_BELOW = 2 / 3
"""A lease is renewed when so much of its time is left: two failures in a row are survived."""
RETRY_MS = 20


@dataclass(frozen=True)
class Renewal:
    """How a lease is kept alive.

    `ttl_ms` is what each extension asks for, `times` how many there are at most. With
    `cancels_body` the body is cancelled when the lease is lost; without, it has to look at
    `lease.lost` itself.
    """

    ttl_ms: int
    times: int = 100
    cancels_body: bool = True


@asynccontextmanager
async def renewed(lease: HeldLease, renewal: Renewal) -> AsyncIterator[None]:
    """Renew a lease for the length of a body.

    Raises:
        LockLost: the lease ended before the body did.
    """
    # Not a task group: what the body raises must pass as it is.
    keeper = asyncio.create_task(_keep(lease, renewal))
    try:
        async with asyncio.timeout(None) as patience:

            def give_up(ended: "asyncio.Task[NoReturn]") -> None:
                """Whatever ends the keeper, nobody keeps the lease any more."""
                if ended.cancelled() or is_over:
                    return
                lease.lost.set()
                if renewal.cancels_body:
                    patience.reschedule(asyncio.get_running_loop().time())

            is_over = False
            keeper.add_done_callback(give_up)
            try:
                yield
            finally:
                is_over = True
                keeper.cancel()
                await asyncio.wait((keeper,))
    except TimeoutError:
        if not patience.expired():
            raise  # the body's own
    if not keeper.cancelled():
        keeper.result()  # LockLost, or a defect that is not swallowed
    if lease.lost.is_set():
        raise LockLost(lease.key, lease.token)


async def _keep(lease: HeldLease, renewal: Renewal) -> NoReturn:
    clock = lease.holding.clock
    for _ in range(renewal.times):
        await clock.sleep_ms(max(0.0, lease.remaining_ms() - renewal.ttl_ms * RENEW_BELOW))
        await _extend(lease, renewal.ttl_ms)
    await clock.sleep_ms(max(0.0, lease.remaining_ms()))
    raise LockLost(lease.key, lease.token)


async def _extend(lease: HeldLease, ttl_ms: int) -> None:
    """Extend, and try again while the lease lasts and nobody can be asked."""
    while lease.remaining_ms() > 0:
        try:
            await lease.extend(ttl_ms)
        except (NodeError, NoQuorum):
            await lease.holding.clock.sleep_ms(RETRY_MS)
        else:
            return
    raise LockLost(lease.key, lease.token)
