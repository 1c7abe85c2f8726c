"""SETNX and EXPIRE as two commands.

Origin: locks from before Redis 2.6.12, still in tutorials. A client that dies, or loses a reply,
between the two leaves a lock without an end: nobody ever buys again.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from labshop.clock import Clock
from labshop.locks import LockTimeout, Node
from labshop.locks.base import LockEventHook
from labshop.zoo.lease import TTL_MS, ZooLease

CAUGHT_BY = "no-undersell"
SCENARIO = "lost replies"


class Lock:
    def __init__(
        self, nodes: Sequence[Node], name: str, clock: Clock, on_event: LockEventHook
    ) -> None:
        self.node, self.key, self.clock, self.on_event = nodes[0], name, clock, on_event

    @asynccontextmanager
    async def hold(self, *, wait_ms: float) -> AsyncIterator[ZooLease]:
        deadline_ms = self.clock.now_ms() + wait_ms
        token = secrets.token_hex(8)
        while not await self.node.command("SETNX", self.key, token):
            if self.clock.now_ms() > deadline_ms:
                raise LockTimeout(self.key, wait_ms)
            await asyncio.sleep(0.002)
        await self.node.command("PEXPIRE", self.key, TTL_MS)
        lease = ZooLease(self.key, token, self.clock.now_ms() + TTL_MS, self.clock)
        self.on_event(lease.acquired())
        try:
            yield lease
        finally:
            self.on_event(lease.released())
            if await self.node.command("GET", self.key) == token:
                await self.node.command("DEL", self.key)
