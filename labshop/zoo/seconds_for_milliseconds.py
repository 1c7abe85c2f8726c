"""The time that acquiring took is subtracted in seconds from a validity in milliseconds.

Origin: the roadmap's own Redlock sample: after 9 s of a 10 s lease it claims 9.889 s left. The
lease is believed in long after Redis has given the lock to somebody else.
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
SCENARIO = "one branch far away"


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
            sent_s = self.clock.now_ms() / 1_000
            if await self.node.command("SET", self.key, token, "NX", "PX", TTL_MS):
                break
            if self.clock.now_ms() > deadline_ms:
                raise LockTimeout(self.key, wait_ms)
            await asyncio.sleep(0.002)
        elapsed = self.clock.now_ms() / 1_000 - sent_s
        validity = TTL_MS - elapsed
        lease = ZooLease(self.key, token, self.clock.now_ms() + validity, self.clock)
        self.on_event(lease.acquired())
        try:
            yield lease
        finally:
            self.on_event(lease.released())
            if await self.node.command("GET", self.key) == token:
                await self.node.command("DEL", self.key)
