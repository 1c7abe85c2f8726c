"""The servers on which strategies are tried: real ones, each behind a proxy, started once.

The problem: a trial must be able to break everything, and must not take a minute. The idea: the
servers outlive the trials; each trial empties them and gets a new ledger, copied from one that was
migrated and seeded once. A strategy runs as two *branches*, as it would in two API processes: each
with its own connection, behind its own proxy, and its own view of gate and ledger.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, nullcontext
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from labshop.api.shop import Shop, build_shop, running
from labshop.clock import SystemClock
from labshop.lab.trial.gates import OtherGate
from labshop.lab.trial.ledgers import Ledgers, SqliteLedgers, postgresql_ledgers, put_on_sale
from labshop.lab.trial.scene import Branch, Scene
from labshop.lab.trial.unguarded import UnguardedLedger
from labshop.locks import Lock, MultiLock, Node, Redlock, SingleLock
from labshop.locks.base import LockEventHook
from labshop.settings import read_settings
from labshop.shop.events import EventBus
from labshop.stack.faults.network import Network
from labshop.stack.faults.processes import emptied
from labshop.stack.faults.shim import hurtable
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from labshop.stack.ports import LOOPBACK
from labshop.stages.base import Toolbox
from labshop.storage.inventory import RedisInventory

BRANCHES = ("branch 1", "branch 2")
LOCK_NODES = ("lock-1", "lock-2", "lock-3", "lock-4", "lock-5")
PRIMARY = "primary"

NODE_TIMEOUT_MS = 250
DATABASE_TIMEOUT_MS = 500
LOCK_TTL_MS = 400
LOCK_WAIT_MS = 2_000
RESERVATION_TTL_MS = 300
OPEN_S = 20.0


class Arena:
    """Real servers for any number of trials, one after the other.

    Args:
        server: the Redis or Valkey to run; None takes the packaged one.
        database_url: of a PostgreSQL server on this machine, where each trial gets a database of
            its own; None is SQLite.
        gate: where a shop's stock is; None is the arena's primary. Whoever is tried without a
            guard is tried on the arena's own primary and SQLite, whatever is given here.
    """

    def __init__(
        self,
        server: Path | None = None,
        *,
        database_url: str | None = None,
        gate: OtherGate | None = None,
    ) -> None:
        self._gate = gate
        self._server = server
        self._database_url = database_url
        self._undo = ExitStack()
        self._numbers = count(1)
        self._used: set[str] = set()
        self.nodes: dict[str, ServerNode] = {}

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            folder = tempfile.TemporaryDirectory(prefix="labshop-", ignore_cleanup_errors=True)
            self.home = Path(undo.enter_context(folder))
            self._leash = undo.enter_context(Leash())
            self.network = undo.enter_context(Network({}))
            self._undo_nodes = undo.enter_context(ExitStack())
            for name in (PRIMARY, *LOCK_NODES):
                self._start(name)
            self._ledgers = undo.enter_context(self._find_ledgers())
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._undo.close()

    @asynccontextmanager
    async def scene(
        self,
        stock: dict[int, int],
        *,
        limit_per_user: int,
        guarded: bool,
        on_lock: LockEventHook,
    ) -> AsyncIterator[Scene]:
        """Set everything up for one trial, for the length of a body.

        Args:
            stock: units on sale, by product; no other product is.
            limit_per_user: units that one user may buy.
            guarded: by the shop's own ledger, or by the one that books whatever it is told.
            on_lock: told of what happens to the locks of the shop's own stages.
        """
        folder = self.home / f"trial-{next(self._numbers)}"
        folder.mkdir()
        for name in (PRIMARY, *sorted(self._used)):
            await asyncio.to_thread(_renew, self.nodes[name])
        self._used.clear()
        try:
            if guarded:
                if self._gate is not None:
                    await self._gate.empty()
                with self._ledgers.new(folder) as url:
                    put_on_sale(url, stock, limit_per_user)
                    async with self._guarded(folder, url, on_lock) as branches:
                        yield Scene(branches, url, self._gate, None)
            else:
                file = folder / "ledger.db"
                ledger = UnguardedLedger(
                    file,
                    stock,
                    limit_per_user=limit_per_user,
                    timeout_ms=DATABASE_TIMEOUT_MS,
                )
                async with self._unguarded(ledger, on_lock) as branches:
                    yield Scene(branches, f"sqlite:///{file}", None, ledger)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def port(self, branch: str, server: str = PRIMARY) -> int:
        """The port under which a branch reaches a server through its proxy."""
        return self.network.port(server, branch)

    @asynccontextmanager
    async def _guarded(
        self, folder: Path, ledger_url: str, on_lock: LockEventHook
    ) -> AsyncIterator[list[Branch]]:
        settings = read_settings(
            home=folder,
            node_timeout_ms=NODE_TIMEOUT_MS,
            database_timeout_ms=DATABASE_TIMEOUT_MS,
            lock_ttl_ms=LOCK_TTL_MS,
            lock_wait_ms=LOCK_WAIT_MS,
            reservation_ttl_ms=RESERVATION_TTL_MS,
        )
        branches: list[Branch] = []
        async with asyncio.TaskGroup() as lives:
            closing = asyncio.Event()
            for name in BRANCHES:
                urls = ",".join(_url(self.port(name, server)) for server in LOCK_NODES)
                way = self._ledgers.way(ledger_url, name)
                own = settings.model_copy(update={"lock_urls": urls, "database_url": way})
                gate_url = _url(self.port(name)) if self._gate is None else self._gate.url
                shop = build_shop(own, gate_url=gate_url)
                shop.stocked = True  # the template was seeded
                shop.watch_locks = on_lock
                lives.create_task(_live(shop, closing))
                branches.append(Branch(name, shop.toolbox(), shop.lock_nodes, shop))
            try:
                async with asyncio.timeout(OPEN_S):
                    for branch in branches:
                        assert branch.shop is not None
                        await branch.shop.opened.wait()
                yield branches
            finally:
                self._note_used(branches)
                closing.set()

    @asynccontextmanager
    async def _unguarded(
        self, ledger: UnguardedLedger, on_lock: LockEventHook
    ) -> AsyncIterator[list[Branch]]:
        branches = []
        for name in BRANCHES:
            node = Node(_url(self.port(name)), timeout_ms=NODE_TIMEOUT_MS)
            lock_nodes = self._lock_nodes(name)
            branches.append(Branch(name, _tools(node, lock_nodes, ledger, on_lock), lock_nodes))
        try:
            yield branches
        finally:
            self._note_used(branches)
            await _close([node for it in branches for node in (it.node, *it.lock_nodes)])
            ledger.close()

    def _find_ledgers(self) -> AbstractContextManager[Ledgers]:
        if self._database_url is None:
            return nullcontext(SqliteLedgers(self.home))
        return postgresql_ledgers(self._database_url, self.network)

    def _lock_nodes(self, branch: str) -> tuple[Node, ...]:
        urls = [_url(self.port(branch, name)) for name in LOCK_NODES]
        return tuple(Node(url, timeout_ms=NODE_TIMEOUT_MS) for url in urls)

    def _note_used(self, branches: Iterable[Branch]) -> None:
        """The servers of a quorum are renewed only when a trial has used them."""
        for branch in branches:
            if any(node.connections for node in branch.lock_nodes):
                self._used.update(LOCK_NODES)

    def _start(self, name: str) -> None:
        folder = self.home / "nodes" / name
        spec = NodeSpec(name, "primary" if name == PRIMARY else "lock")
        server = find_server(self._server)
        node = ServerNode(spec, server, folder, self._leash, env=hurtable(folder))
        self._undo_nodes.callback(node.stop)
        node.start()
        self.nodes[name] = node
        self.network.add(name, node.port)


def _tools(
    node: Node, lock_nodes: tuple[Node, ...], ledger: UnguardedLedger, on_lock: LockEventHook
) -> Toolbox:
    clock = SystemClock()

    def lock(*names: str) -> Lock:
        return MultiLock(
            SingleLock(node, name, ttl_ms=LOCK_TTL_MS, clock=clock, on_event=on_lock)
            for name in names
        )

    def quorum_lock(*names: str) -> Lock:
        return MultiLock(
            Redlock(
                lock_nodes,
                name,
                ttl_ms=LOCK_TTL_MS,
                next_fence=ledger.next_fence,
                clock=clock,
                on_event=on_lock,
            )
            for name in names
        )

    return Toolbox(
        lock=lock,
        quorum_lock=quorum_lock,
        inventory=RedisInventory(node, ledger.snapshot, clock=clock),
        ledger=ledger,
        clock=clock,
        publish=EventBus().publish,
        node=node,
        lock_wait_ms=LOCK_WAIT_MS,
    )


async def _live(shop: Shop, closing: asyncio.Event) -> None:
    async with running(shop):
        await closing.wait()


def _renew(server: ServerNode) -> None:
    """Start a server without any data: no power loss brings the last trial back."""
    with emptied(server):
        pass


async def _close(nodes: Iterable[Node]) -> None:
    for node in nodes:
        await node.close()


def _url(port: int) -> str:
    return f"redis://{LOOPBACK}:{port}"
