"""A Redlock that asks one node after the other, and never looks at the clock again.

Origin: early ports of Redlock (redlock-py asks in a loop; node-redlock issue 296 is a lock that
had expired when it was returned). When the last node has answered, the first has forgotten.
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
SCENARIO = "far lock nodes"


class Lock:
    def __init__(
        self, nodes: Sequence[Node], name: str, clock: Clock, on_event: LockEventHook
    ) -> None:
        self.nodes, self.key, self.clock, self.on_event = nodes, name, clock, on_event

    @asynccontextmanager
    async def hold(self, *, wait_ms: float) -> AsyncIterator[ZooLease]:
        deadline_ms = self.clock.now_ms() + wait_ms
        token = secrets.token_hex(8)
        while not await self.ask_all(token):
            await self.release(token)
            if self.clock.now_ms() > deadline_ms:
                raise LockTimeout(self.key, wait_ms)
            await asyncio.sleep(0.01)
        lease = ZooLease(self.key, token, self.clock.now_ms() + TTL_MS, self.clock)
        self.on_event(lease.acquired())
        try:
            yield lease
        finally:
            self.on_event(lease.released())
            await self.release(token)

    async def ask_all(self, token: str) -> bool:
        votes = 0
        for node in self.nodes:
            if await node.command("SET", self.key, token, "NX", "PX", TTL_MS):
                votes += 1
        return votes > len(self.nodes) // 2

    async def release(self, token: str) -> None:
        for node in self.nodes:
            if await node.command("GET", self.key) == token:
                await node.command("DEL", self.key)
