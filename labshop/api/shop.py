"""Everything that the API is made of, built in one place and taken down in one place.

The shop opens even when Redis or SQL are away, says so in `/readyz`, and heals by itself:
migrating and seeding are tried again until they succeed, and every request connects anew.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio.to_thread
import structlog
from pydantic import SecretStr
from sqlalchemy import text

from labshop.api.passwords import Passwords
from labshop.api.stock import build_stock
from labshop.api.tokens import Tokens
from labshop.clock import Clock, SystemClock
from labshop.errors import SetupError
from labshop.locks import Lock, LockEvent, MultiLock, Node, NodeError, Redlock, SingleLock
from labshop.locks.base import LockEventHook, ignore_event
from labshop.locks.slots import beside
from labshop.ops.metrics import Metrics
from labshop.ops.reconcile import Reconciler
from labshop.ops.repair import Repairer
from labshop.ops.repair_metrics import RepairMetrics
from labshop.ops.scheduler import Job, Scheduler, leader_lock
from labshop.settings import Settings
from labshop.shop.errors import Refused, Unavailable
from labshop.shop.events import Event, EventBus
from labshop.stages import LOCKLESS, STAGES
from labshop.stages.base import Toolbox, load_strategy
from labshop.stages.harden import Guards, Hardened, Policy
from labshop.storage.accounts import Accounts
from labshop.storage.catalog import Catalog
from labshop.storage.comparison import Comparison
from labshop.storage.database import OUTAGE, Database, outage_reason
from labshop.storage.gate import tag_of
from labshop.storage.inventory import RedisInventory
from labshop.storage.ledger import SqlLedger
from labshop.storage.seed import seed
from labshop.storage.shards import ShardedInventory
from labshop.storage.stock_reads import StockReads
from labshop.storage.writer import GroupWriter

log = structlog.get_logger()

OPEN_RETRY_MS = 500
RECONCILE_MS = 500
SALE_ID = 1


@dataclass
class Shop:
    """The parts of a running shop."""

    settings: Settings
    clock: Clock
    node: Node
    lock_nodes: tuple[Node, ...]
    database: Database
    writer: GroupWriter
    ledger: SqlLedger
    inventory: RedisInventory | ShardedInventory
    catalog: Catalog
    stock: StockReads
    accounts: Accounts
    passwords: Passwords
    tokens: Tokens
    events: EventBus
    metrics: Metrics
    reconciler: Reconciler
    strategies: dict[str, Hardened]
    admin_password: str = field(repr=False)
    shard_nodes: tuple[Node, ...] = ()
    """The servers among which the stock is split; none, where `node` holds all of it."""
    watch_locks: LockEventHook = ignore_event
    """Told, beside the metrics, of all that happens to this shop's locks."""
    stocked: bool = False
    """True once the ledger has its tables and its catalogue."""
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the gate has been built from the ledger."""
    guards: Guards = field(init=False)
    """In front of what all stages depend on."""
    scheduler: Scheduler = field(init=False)
    repairs: RepairMetrics = field(init=False)
    repairer: Repairer | None = None
    """None where the stock is split among several servers."""

    def lock(self, *names: str) -> Lock:
        """The lock of stages v1 and v2: on one node."""
        locks = [self._single_lock(name) for name in names]
        return locks[0] if len(locks) == 1 else MultiLock(locks)

    def quorum_lock(self, *names: str) -> Lock:
        """The lock of stage v3: on a majority of nodes.

        Raises:
            Unavailable: this shop has no lock nodes.
        """
        if not self.lock_nodes:
            raise Unavailable("lock nodes", "this shop has none; LABSHOP_LOCK_URLS names them")
        locks = [self._redlock(name) for name in names]
        return locks[0] if len(locks) == 1 else MultiLock(locks)

    def _single_lock(self, name: str) -> SingleLock:
        # A Cluster keeps each key on one of its masters; this one's is to be the gate's.
        in_cluster = self.node.has_one_slot
        return SingleLock(
            self.node,
            beside(self.inventory.gate.tag, name) if in_cluster else name,
            ttl_ms=self.settings.lock_ttl_ms,
            clock=self.clock,
            on_event=self._lock_event,
        )

    def _redlock(self, name: str) -> Redlock:
        return Redlock(
            self.lock_nodes,
            name,
            ttl_ms=self.settings.lock_ttl_ms,
            next_fence=self.ledger.next_fence,
            clock=self.clock,
            on_event=self._lock_event,
        )

    def toolbox(self) -> Toolbox:
        """What a stage is given."""
        return Toolbox(
            lock=self.lock,
            quorum_lock=self.quorum_lock,
            inventory=self.inventory,
            ledger=self.ledger,
            clock=self.clock,
            publish=self.events.publish,
            node=self.node,
            lock_wait_ms=self.settings.lock_wait_ms,
        )

    async def check(self) -> None:
        """See whether this shop can sell.

        Raises:
            Unavailable: it cannot, and why.
        """
        if not self.stocked:
            raise Unavailable("ledger", "it is not set up yet")
        try:
            await self.node.command("PING")
        except NodeError as error:
            raise Unavailable("gate", error.reason) from error
        await self.database.read(lambda session: session.execute(text("SELECT 1")))

    def _lock_event(self, event: LockEvent) -> None:
        self.metrics.lock_event(event)
        self.watch_locks(event)
        details = {"event": event.kind, "key": event.key, "fence": event.fence}
        self.events.publish(Event("lock", details))

    async def work(self) -> None:
        """Open, as soon as both stores can be reached; then keep the gate true to the ledger."""
        while not self.opened.is_set():
            try:
                await self._open()
            except (*OUTAGE, Refused) as outage:
                log.warning("shop.closed", reason=outage_reason(outage))
                await self.clock.sleep_ms(OPEN_RETRY_MS)
        await self.scheduler.run()

    async def _open(self) -> None:
        if not self.stocked:
            password_hash = await self.passwords.hash(self.admin_password)
            await anyio.to_thread.run_sync(self.database.migrate)
            await anyio.to_thread.run_sync(
                lambda: seed(self.database, admin_password_hash=password_hash)
            )
            self.stocked = True
        # A process that died may have cancelled an order without telling the gate.
        await self.inventory.gate.rebuild()
        self.opened.set()


def build_shop(settings: Settings, *, gate_url: str, clock: Clock | None = None) -> Shop:
    """Put a shop together; nothing is connected yet.

    Raises:
        SetupError: a setting is not usable, or the home folder is not writable.
    """
    clock = clock or SystemClock()
    # The database gives up first, so that an outage is a refusal and not an unknown outcome.
    database = Database(settings.ledger_url(), timeout_ms=settings.database_timeout_ms // 2)
    writer = GroupWriter(database, timeout_ms=settings.database_timeout_ms)
    ledger = SqlLedger(database, writer)
    try:
        node = Node(gate_url, timeout_ms=settings.node_timeout_ms, key=tag_of(SALE_ID))
    except ValueError as error:
        raise SetupError(f"LABSHOP_GATE_URL is not usable: {error}.") from None
    try:
        lock_nodes = tuple(
            Node(url, timeout_ms=settings.lock_node_timeout_ms) for url in settings.lock_node_urls()
        )
    except ValueError as error:
        raise SetupError(f"LABSHOP_LOCK_URLS is not usable: {error}.") from None
    try:
        shard_nodes = tuple(
            Node(url, timeout_ms=settings.node_timeout_ms, key=tag_of(SALE_ID))
            for url in settings.shard_urls()
        )
    except ValueError as error:
        raise SetupError(f"LABSHOP_GATE_SHARD_URLS is not usable: {error}.") from None
    inventory = (
        ShardedInventory(shard_nodes, ledger.snapshot, clock=clock, sale_id=SALE_ID)
        if shard_nodes
        else RedisInventory(node, ledger.snapshot, clock=clock, sale_id=SALE_ID)
    )
    secret = _secret(settings.home / "jwt-secret", settings.jwt_secret)
    stages = dict(STAGES)
    if settings.strategy:
        stages["own"] = settings.strategy
    catalog, metrics = Catalog(database), Metrics(tuple(stages))
    shop = Shop(
        settings=settings,
        clock=clock,
        node=node,
        lock_nodes=lock_nodes,
        shard_nodes=shard_nodes,
        database=database,
        writer=writer,
        ledger=ledger,
        inventory=inventory,
        catalog=catalog,
        stock=build_stock(settings, inventory, catalog, metrics, clock),
        accounts=Accounts(database, writer),
        passwords=Passwords(),
        tokens=Tokens(secret, ttl_s=settings.token_ttl_s, clock=clock),
        events=EventBus(),
        metrics=metrics,
        reconciler=Reconciler(inventory, ledger, reservation_ttl_ms=settings.reservation_ttl_ms),
        strategies={},
        admin_password=_secret(settings.home / "admin-password", settings.admin_password),
    )
    _harden(shop, stages)
    _schedule(shop)
    return shop


def _harden(shop: Shop, stages: Mapping[str, str]) -> None:
    """Make the strategies, each in a bulkhead of its own, and all behind the same guards."""
    settings, tools = shop.settings, shop.toolbox()
    policy = Policy(
        limit=settings.locked_purchases_at_once,
        queue=0,
        deadline_ms=settings.purchase_deadline_ms,
        failure_threshold=settings.breaker_failures,
        recovery_ms=settings.breaker_recovery_ms,
    )
    lockless = replace(policy, limit=settings.purchases_at_once)
    shop.guards = Guards.of(tools, policy)
    for stage, path in stages.items():
        terms = lockless if stage in LOCKLESS else policy
        shop.strategies[stage] = Hardened(load_strategy(path), tools, terms, shop.guards)
    shop.metrics.watch(shop.guards, {it: each.bulkhead for it, each in shop.strategies.items()})


def _schedule(shop: Shop) -> None:
    """Say what is done again and again: what can be done twice by everybody, the rest by one."""
    settings, inventory, clock = shop.settings, shop.inventory, shop.clock
    shop.repairs = RepairMetrics(shop.metrics.registry, clock)
    if isinstance(inventory, RedisInventory):
        comparison = Comparison(inventory.gate, shop.database)
        shop.repairer = Repairer(inventory, comparison, clock, shop.repairs, shop.events.publish)

    async def reconcile() -> None:
        await shop.reconciler.look()

    def of_the_leader(fence: int) -> list[Job]:
        repairer = shop.repairer
        if repairer is None:
            return []
        return [Job("repair", lambda: repairer.repair(fence), settings.compare_interval_ms)]

    shop.scheduler = Scheduler(
        [Job("reconcile", reconcile, RECONCILE_MS)],
        of_the_leader,
        leader_lock(shop.node, inventory.gate.tag, ttl_ms=settings.leader_lease_ms, clock=clock),
        clock,
        on_lead=shop.repairs.leads,
    )


@asynccontextmanager
async def running(shop: Shop) -> AsyncIterator[Shop]:
    """The shop with its writer and its scheduler at work, for an ``async with`` body."""
    try:
        async with asyncio.TaskGroup() as tasks:
            works = (shop.writer.run(), shop.work(), shop.stock.watch())
            workers = [tasks.create_task(work) for work in works]
            try:
                yield shop
            finally:
                for worker in workers:
                    worker.cancel()
                # Before its connections are closed, a leader makes room for another.
                await asyncio.wait(workers)
                for node in (shop.node, *shop.lock_nodes, *shop.shard_nodes):
                    await node.close()
    finally:
        shop.database.close()


def _secret(path: Path, given: SecretStr | None) -> str:
    """A secret from the settings, or a random one that is kept in a file of its own."""
    if given is not None:
        return given.get_secret_value()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            draft = path.with_suffix(f".{secrets.token_hex(4)}")
            draft.touch(mode=0o600)
            draft.write_text(secrets.token_hex(32))
            # A link fails if the file exists by now: the first process' secret is everybody's.
            try:
                path.hardlink_to(draft)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        return path.read_text()
    except OSError as error:
        raise SetupError(
            f"The folder {path.parent} cannot be used: {error.strerror}. "
            "Name another one with LABSHOP_HOME."
        ) from None
