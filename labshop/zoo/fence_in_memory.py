"""The fencing token is a counter beside the lock, in a Redis that may forget.

Origin: `INCR fence` in answers that cite Kleppmann's critique. After a failover to a replica
that lags, or a restart without data, the counter gives out the same numbers again.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from labshop.clock import Clock
from labshop.locks import LockTimeout, Node
from labshop.locks.base import LockEventHook
from labshop.zoo.lease import TTL_MS, ZooLease

CAUGHT_BY = "no-stale-fence"
SCENARIO = "forgetful node"


class Lock:
    def __init__(
        self, nodes: Sequence[Node], name: str, clock: Clock, on_event: LockEventHook
    ) -> None:
        self.node, self.key, self.clock, self.on_event = nodes[0], name, clock, on_event

    @asynccontextmanager
    async def hold(self, *, wait_ms: float) -> AsyncIterator[ZooLease]:
        deadline_ms = self.clock.now_ms() + wait_ms
        token = secrets.token_hex(8)
        while True:
            sent_ms = self.clock.now_ms()
            if await self.node.command("SET", self.key, token, "NX", "PX", TTL_MS):
                break
            if self.clock.now_ms() > deadline_ms:
                raise LockTimeout(self.key, wait_ms)
            await asyncio.sleep(0.002)
        fence = int(await self.node.command("INCR", f"{self.key}:fence"))
        lease = ZooLease(self.key, token, sent_ms + TTL_MS, self.clock, fence)
        self.on_event(lease.acquired())
        try:
            yield lease
        finally:
            self.on_event(lease.released())
            if await self.node.command("GET", self.key) == token:
                await self.node.command("DEL", self.key)
