"""The end of the lease is a wall-clock time in the key, which other hosts compare with theirs.

Origin: the SETNX/GETSET algorithm that the Redis documentation once described, and libraries
made after it. A host whose clock is ahead takes every lock away from its holder at once.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from labshop.clock import Clock
from labshop.locks import LockTimeout, Node
from labshop.locks.base import LockEventHook
from labshop.zoo.lease import TTL_MS, ZooLease

CAUGHT_BY = "exclusive-leases"
SCENARIO = "clocks apart"


class Lock:
    def __init__(
        self, nodes: Sequence[Node], name: str, clock: Clock, on_event: LockEventHook
    ) -> None:
        self.node, self.key, self.clock, self.on_event = nodes[0], name, clock, on_event

    @asynccontextmanager
    async def hold(self, *, wait_ms: float) -> AsyncIterator[ZooLease]:
        deadline_ms = self.clock.now_ms() + wait_ms
        while not await self.take():
            if self.clock.now_ms() > deadline_ms:
                raise LockTimeout(self.key, wait_ms)
            await asyncio.sleep(0.002)
        until_ms = self.clock.now_ms() + TTL_MS
        lease = ZooLease(self.key, secrets.token_hex(8), until_ms, self.clock)
        self.on_event(lease.acquired())
        try:
            yield lease
        finally:
            self.on_event(lease.released())
            await self.node.command("DEL", self.key)

    async def take(self) -> bool:
        now_s = self.clock.wall_s()
        ends_s = str(now_s + TTL_MS / 1_000)
        if await self.node.command("SETNX", self.key, ends_s):
            return True
        seen = await self.node.command("GET", self.key)
        if seen is None or float(seen) > now_s:
            return False
        return bool(await self.node.command("GETSET", self.key, ends_s) == seen)
