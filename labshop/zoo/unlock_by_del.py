"""A lock that is released by a plain DEL.

Origin: python snippets of `SET NX EX` … `DELETE`, and the roadmap's sample. A holder who was
paused beyond the end of its lease deletes the lock of whoever has it by then.
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
SCENARIO = "paused holder"


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
        lease = ZooLease(self.key, token, sent_ms + TTL_MS, self.clock)
        self.on_event(lease.acquired())
        try:
            yield lease
        finally:
            self.on_event(lease.released())
            await self.node.command("DEL", self.key)
