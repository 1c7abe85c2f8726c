"""This lock and other people's behind one shape: hold a key for the length of a body.

The problem: each library has its own client, its own words and its own defaults. The idea: one
thin adapter each, an ``async with`` that opens the library on the given nodes and hands out a
function from a key to a lock. Every library keeps its own defaults, but for three things that
make the comparison fair: it tries for as long as it takes, where the lab hands the client in it
retries no command by itself, and it waits for one node no longer than the others do, where it
can be told.

A peer that is not installed, or cannot be imported on this Python, is named in a sentence and
left out. It does not promise that a peer is at its best: some can be tuned to poll faster.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from labshop.locks import Node, Redlock, SingleLock

TTL_MS = 10_000
WAIT_MS = 60_000

Hold = Callable[[str], AbstractAsyncContextManager[object]]
"""From a key to a lock on it, to be held by ``async with``."""

Open = Callable[[Sequence[str], int], AbstractAsyncContextManager[Hold]]
"""From the nodes' addresses and the deadline for one node, in milliseconds, to a `Hold`."""


@dataclass(frozen=True)
class LockLibrary:
    """A library that locks."""

    name: str
    package: str
    """The package that brings it."""
    module: str
    open: Open
    is_ours: bool = False

    def absence(self) -> str | None:
        """The sentence that says why it cannot be measured here; None when it can."""
        try:
            import_module(self.module)
        except Exception as error:  # noqa: BLE001  # a peer under test may raise anything
            if isinstance(error, ModuleNotFoundError) and error.name == self.module:
                return f"{self.name} is not measured: it is not installed (`make bench` does that)."
            return f"{self.name} is not measured: it cannot be imported here ({error!s:.100})."
        return None

    @property
    def version(self) -> str:
        """The version that is installed."""
        return version(self.package)


@asynccontextmanager
async def _open_ours(urls: Sequence[str], timeout_ms: int) -> AsyncIterator[Hold]:
    node = Node(urls[0], timeout_ms=timeout_ms)
    try:
        yield lambda key: SingleLock(node, key, ttl_ms=TTL_MS).hold(wait_ms=WAIT_MS)
    finally:
        await node.close()


@asynccontextmanager
async def _open_our_redlock(urls: Sequence[str], timeout_ms: int) -> AsyncIterator[Hold]:
    nodes = [Node(url, timeout_ms=timeout_ms) for url in urls]
    try:
        yield lambda key: Redlock(nodes, key, ttl_ms=TTL_MS).hold(wait_ms=WAIT_MS)
    finally:
        for node in nodes:
            await node.close()


@asynccontextmanager
async def _open_redis_py(urls: Sequence[str], timeout_ms: int) -> AsyncIterator[Hold]:
    async with redis_client(urls[0], timeout_ms) as client:
        yield lambda key: client.lock(key, timeout=TTL_MS / 1_000)


@asynccontextmanager
async def _open_aioredlock(urls: Sequence[str], _timeout_ms: int) -> AsyncIterator[Hold]:
    # That a node is dead is no news here, and to print it is not what is measured.
    for name in ("aioredis", "aioredlock"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    manager = import_module("aioredlock").Aioredlock(list(urls), retry_count=1_000_000)

    @asynccontextmanager
    async def hold(key: str) -> AsyncIterator[Any]:
        async with await manager.lock(key, lock_timeout=TTL_MS / 1_000) as lock:
            yield lock

    try:
        yield hold
    finally:
        await manager.destroy()


@asynccontextmanager
async def _open_pottery(urls: Sequence[str], timeout_ms: int) -> AsyncIterator[Hold]:
    lock_class = import_module("pottery").AIORedlock
    async with AsyncExitStack() as clients:
        masters = {await clients.enter_async_context(redis_client(url, timeout_ms)) for url in urls}
        yield lambda key: lock_class(key=key, masters=masters, auto_release_time=TTL_MS / 1_000)


@asynccontextmanager
async def _open_redlock_ng(urls: Sequence[str], timeout_ms: int) -> AsyncIterator[Hold]:
    module, timeout_s = import_module("redlock"), timeout_ms / 1_000
    config = module.RedlockConfig(
        masters=list(urls), socket_timeout=timeout_s, socket_connect_timeout=timeout_s
    )
    manager = module.AsyncRedlock(config)
    async with AsyncExitStack() as clients:
        for client in manager.client.instances:
            # It asks for redis-py 5, whose clients did not retry; those of redis-py 8 do.
            client.set_retry(Retry(NoBackoff(), 0))
            await clients.enter_async_context(client)
        yield lambda key: manager.lock(key, TTL_MS, blocking=True)


@asynccontextmanager
async def _open_fifo_lock(urls: Sequence[str], timeout_ms: int) -> AsyncIterator[Hold]:
    lock_class = import_module("redis_fifo_lock").FifoLock
    # A lock asks for the server's settings when it is first used, so one is kept for each key.
    locks: dict[str, Any] = {}
    async with redis_client(urls[0], timeout_ms) as client:

        def hold(key: str) -> AbstractAsyncContextManager[object]:
            if key not in locks:
                locks[key] = lock_class(client, key, lease_ms=TTL_MS)
            held: AbstractAsyncContextManager[object] = locks[key].hold()
            return held

        yield hold


def redis_client(url: str, timeout_ms: int) -> Redis:
    """A client of redis-py that sends each command once."""
    timeout_s = timeout_ms / 1_000
    return Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
    )


ON_ONE_NODE = (
    LockLibrary("labshop", "labshop", "labshop.locks", _open_ours, is_ours=True),
    LockLibrary("redis-py", "redis", "redis.asyncio", _open_redis_py),
    LockLibrary("aioredlock", "aioredlock", "aioredlock", _open_aioredlock),
    LockLibrary("pottery", "pottery", "pottery", _open_pottery),
    LockLibrary("redlock-ng", "redlock-ng", "redlock", _open_redlock_ng),
    LockLibrary("redis-fifo-lock", "redis-fifo-lock", "redis_fifo_lock", _open_fifo_lock),
)
ON_MANY_NODES = (
    LockLibrary("labshop", "labshop", "labshop.locks", _open_our_redlock, is_ours=True),
    *(peer for peer in ON_ONE_NODE if peer.name in {"aioredlock", "pottery", "redlock-ng"}),
)
