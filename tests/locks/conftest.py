"""Five lock servers per worker, a network in front of them, and each kind of lock on them."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest

from labshop.clock import Clock
from labshop.locks import (
    HeldLease,
    MultiLock,
    Node,
    NodeError,
    Redlock,
    Renewal,
    SingleLock,
    look_at,
)
from labshop.locks.base import LockEventHook, ignore_event
from labshop.locks.redlock import NextFence
from labshop.stack.faults.network import Network
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from tests.conftest import eventually

NAMES = ("n1", "n2", "n3", "n4", "n5")
KINDS = ("single", "multi", "multi-nodes", "redlock")
"""A key of one node, three keys of one node, one key on each of three nodes, a key of five."""
SHORT_MS = 250
"""A node's deadline where a test waits for it to pass."""
WOKEN_S = 5
"""Far above what a wake-up takes on a busy machine, and below the leases in a waiter's way."""


ROOT = Path(__file__).parents[2]

Process = asyncio.subprocess.Process
Start = Callable[..., Awaitable[Process]]


class AnyLock(Protocol):
    """What all kinds of locks can do."""

    async def acquire(self, *, wait_ms: float) -> HeldLease:
        """Acquire it."""

    def hold(
        self, *, wait_ms: float, renewal: Renewal | None = None
    ) -> AbstractAsyncContextManager[HeldLease]:
        """Hold it."""


class Five:
    """Five servers, as several processes and an onlooker see them."""

    def __init__(self, servers: Sequence[ServerNode], network: Network) -> None:
        self.servers = servers
        self.network = network
        self.outside = tuple(Node(server.url, timeout_ms=5_000) for server in servers)
        self._opened = list(self.outside)

    def process(self, *, timeout_ms: int = 2_000, client: str = "") -> tuple[Node, ...]:
        """The servers as one more process sees them: connections and queues of its own.

        Args:
            timeout_ms: of a command.
            client: its name in the network; without one it is beside the servers.
        """
        ports = (
            self.network.port(name, client) if client else server.port
            for name, server in zip(NAMES, self.servers, strict=True)
        )
        nodes = tuple(Node(f"redis://127.0.0.1:{it}", timeout_ms=timeout_ms) for it in ports)
        self._opened += nodes
        return nodes

    async def keys(self) -> list[str]:
        """All keys of locks on living servers, fencing tokens apart."""
        found: list[str] = []
        for node, server in zip(self.outside, self.servers, strict=True):
            if server.alive:
                found += await node.command("KEYS", "lock:*")
        return sorted(key for key in found if not key.endswith(":fence"))

    async def is_empty(self) -> bool:
        """Whether no lock, no queue and no waiter is left anywhere."""
        return not await self.keys()

    async def is_left_empty_by(self, *nodes: Node) -> bool:
        """The same, once all that these nodes were sent is carried out, undoings included.

        What a first answer made them send, such as a script that was lost, comes before a second.
        """
        for _ in range(2):
            await asyncio.gather(*map(is_heard, nodes))
        return await self.is_empty()

    async def tokens(self, key: str = "door") -> list[str]:
        """The token of who holds a key, by each server; empty where nobody does."""
        return [(await look_at(node, key)).token for node in self.outside]

    async def mend(self) -> None:
        """Let every server live, awake and empty."""
        for server in self.servers:
            server.thaw()
            if not server.alive:
                server.restart()
        for node in self.outside:
            await node.command("FLUSHALL")

    async def close(self) -> None:
        """Drop all connections."""
        for node in self._opened:
            await node.close()
        self.network.reset()


@pytest.fixture
def only_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no waiter look by itself: it gets the lock because it is woken, or not at all."""
    for name in ("claim.LOOK_AGAIN_MS", "claim.ALIVE_MS", "quorum.LOOK_AGAIN_MS"):
        monkeypatch.setattr(f"labshop.locks.{name}", 60_000)


@pytest.fixture(scope="session")
def lock_servers(
    leash: Leash, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerNode, ...]]:
    """Five packaged Valkeys, one set per worker."""
    folder = tmp_path_factory.mktemp("locks")
    servers = tuple(
        ServerNode(NodeSpec(name, "lock"), find_server(None), folder / name, leash)
        for name in NAMES
    )
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def lock_network(lock_servers: tuple[ServerNode, ...]) -> Iterator[Network]:
    """A network in front of them."""
    ports = {name: server.port for name, server in zip(NAMES, lock_servers, strict=True)}
    with Network(ports) as network:
        yield network


@pytest.fixture
async def five(lock_servers: tuple[ServerNode, ...], lock_network: Network) -> AsyncIterator[Five]:
    """The five servers, alive and empty; what a test does to them is mended behind it."""
    five = Five(lock_servers, lock_network)
    await five.mend()
    yield five
    await five.mend()
    await five.close()


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a visitor, which is ready then; all have gone at the end."""
    started: list[Process] = []

    async def start(*arguments: object) -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.locks.visitor", *map(str, arguments)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        started.append(process)
        assert await heard(process) == "ready"
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of lock in turn."""
    kind: str = request.param
    return kind


def make_lock(
    kind: str,
    nodes: Sequence[Node],
    *,
    key: str = "door",
    ttl_ms: int = 2_000,
    on_event: LockEventHook = ignore_event,
    clock: Clock | None = None,
) -> AnyLock:
    """A lock of a kind, on the nodes of one process."""

    def single(node: Node, name: str) -> SingleLock:
        return SingleLock(node, name, ttl_ms=ttl_ms, on_event=on_event, clock=clock)

    if kind == "single":
        return single(nodes[0], key)
    if kind == "redlock":
        return redlock(nodes, key=key, ttl_ms=ttl_ms, on_event=on_event, clock=clock)
    spread = nodes[:3] if kind == "multi-nodes" else (nodes[0],) * 3
    return MultiLock(single(node, f"{key} {number}") for number, node in enumerate(spread))


def redlock(
    nodes: Sequence[Node],
    *,
    key: str = "door",
    ttl_ms: int = 2_000,
    quarantine_ms: int | None = 0,
    retry_ms: tuple[float, float] = (1.0, 20.0),
    next_fence: NextFence | None = None,
    on_event: LockEventHook = ignore_event,
    clock: Clock | None = None,
) -> Redlock:
    """A Redlock on servers that may have just started, so it has no quarantine unless told."""
    return Redlock(
        nodes,
        key,
        ttl_ms=ttl_ms,
        quarantine_ms=quarantine_ms,
        retry_ms=retry_ms,
        next_fence=next_fence,
        on_event=on_event,
        clock=clock,
    )


def holder_keys(kind: str, key: str = "door") -> list[str]:
    """The keys in which a held lock of a kind is seen, as `Five.keys` lists them."""
    if kind == "single":
        return [f"lock:{{{key}}}"]
    if kind == "redlock":
        return [f"lock:{{{key}}}"] * 5
    return [f"lock:{{{key} {number}}}" for number in range(3)]


class HandClock:
    """A clock that stands still until it is moved; it sleeps no longer than a loop's turn."""

    def __init__(self) -> None:
        self.ms = 1_000.0

    def now_ms(self) -> float:
        return self.ms

    def wall_s(self) -> float:
        return self.ms / 1_000

    async def sleep_ms(self, duration_ms: float) -> None:
        self.ms += duration_ms


async def is_heard(node: Node) -> None:
    """Whatever became of its last connection, it has one, and is answered behind all it sent."""

    async def answers() -> bool:
        try:
            await node.command("PING")
        except NodeError:
            return False
        return True

    await eventually(answers)


def answered() -> "asyncio.Future[object]":
    """What a control sends in place of an undoing: nothing, which is answered at once."""
    nothing: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    nothing.set_result(0)
    return nothing


def tell(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"go\n")


async def heard(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return (await process.stdout.readline()).decode().strip()
