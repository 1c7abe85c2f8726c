"""The shop of a campaign as plain processes: seven Redis servers, two APIs, one ledger.

The problem: what survives faults in one process may not survive them in two, which share a gate and
a ledger and know nothing of each other. The idea: the topology of the lab, and between each API and
each server a proxy of its own, so that one API can be cut off while the other is not.

The campaign itself reads the ledger's file and the gate past all proxies, and repairs neither: what
faults have left, the two APIs settle. Between two sales it restocks, as an administrator would.
"""

import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlmodel import update

from labshop.api.tokens import Tokens
from labshop.clock import SystemClock
from labshop.lab.chaos.books import newest_event
from labshop.locks import Node, NodeError
from labshop.stack.faults.network import Network
from labshop.stack.faults.processes import Process
from labshop.stack.faults.shim import hurtable
from labshop.stack.nodes import ServerNode
from labshop.stack.ports import LOOPBACK, free_port
from labshop.stack.shop_api import UNMETERED, ApiProcess
from labshop.stack.topology import Topology, specs_of
from labshop.storage import changes
from labshop.storage.database import Database
from labshop.storage.gate import Gate
from labshop.storage.records import Snapshot, read_snapshot
from labshop.storage.tables import SaleWindow, User

APIS = ("API 1", "API 2")
PRIMARY = "primary"
REPLICA = "replica"

GATE_TIMEOUT_MS = 2_000
DATABASE_TIMEOUT_MS = 10_000


class Premises:
    """Everything that a campaign runs on, for the length of a ``with`` body.

    Args:
        home: an empty folder.
        server: the Redis or Valkey to run; None takes the packaged one.
        strategy: ``module:Class`` to serve under ``/own``, beside the stages.
    """

    def __init__(self, home: Path, server: Path | None = None, strategy: str | None = None) -> None:
        self.home = home.absolute()
        self.ledger_file = self.home / "ledger.db"
        self._server = server
        self._strategy = strategy
        self._undo = ExitStack()
        self._secret = secrets.token_hex(32)
        self._users = 0
        self.apis: dict[str, ApiProcess] = {}

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            specs = specs_of("04_production")
            self.topology = undo.enter_context(Topology(self.home, self._server, specs))
            ports = {name: node.port for name, node in self.topology.nodes.items()}
            self.network = undo.enter_context(Network(ports))
            for name in APIS:
                self.apis[name] = self._api(name)
                undo.callback(self.apis[name].end)
                self.apis[name].start()
            self._database = Database(self._ledger_url, timeout_ms=DATABASE_TIMEOUT_MS)
            undo.callback(self._database.close)
            self._tokens = Tokens(self._secret, ttl_s=86_400, clock=SystemClock())
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._undo.close()

    @property
    def nodes(self) -> Mapping[str, ServerNode]:
        """The Redis servers, by name."""
        return self.topology.nodes

    @property
    def lock_nodes(self) -> list[str]:
        """The names of the masters of a quorum."""
        return [name for name, node in self.nodes.items() if node.spec.role == "lock"]

    def gate_node(self) -> Node:
        """A connection to the primary that no fault of the network hits; the caller closes it."""
        return Node(self.nodes[PRIMARY].url, timeout_ms=GATE_TIMEOUT_MS)

    def welcome(self, count: int) -> dict[int, str]:
        """So many new users: the token of each, by the user's id."""
        names = range(self._users + 1, self._users + count + 1)
        self._users += count
        at = datetime.now(UTC)
        users = [User(name=f"buyer-{n}", password_hash="!", created_at=at) for n in names]  # noqa: S106  # fits no password
        with self._database.writing() as session:
            session.add_all(users)
            session.commit()
            ids = [user.id for user in users if user.id is not None]
        return {user_id: self._tokens.issue(user_id) for user_id in ids}

    async def restock(self, stock: Mapping[int, int], limit_per_user: int) -> int:
        """Put a sale's units on sale, at the ledger and at the gate, and count from here.

        Returns:
            The ledger's newest event: whatever is newer belongs to this sale.
        """
        with self._database.writing() as session:
            for product, units in stock.items():
                changes.adjust(session, product, units, "chaos")
            session.execute(update(SaleWindow).values(limit_per_user=limit_per_user))
            session.commit()
        node = self.gate_node()
        try:
            await self._gate(node).rebuild()
            for product, units in stock.items():
                # The counter of a strategy that goes its own way.
                await node.command("SET", f"stock:{product}", units)
        finally:
            await node.close()
        return newest_event(self.ledger_file)

    async def gate_stock(self, node: Node, products: Sequence[int]) -> dict[int, int] | None:
        """Units at the gate that nobody has bought; None while it is away or holds any back."""
        if not products:
            return {}
        fields = [f"{place}:{product}" for product in products for place in ("left", "held")]
        try:
            told = await node.command("HMGET", self._gate(node).key, *fields)
        except NodeError:
            return None
        left = dict(zip(products, told[::2], strict=True))
        held = [int(units or 0) for units in told[1::2]]
        if any(held) or None in left.values():
            return None
        return {product: int(units) for product, units in left.items()}

    def repair(self) -> None:
        """Start what did not come back by itself, so that the campaign can go on."""
        processes: list[Process] = [*self.nodes.values(), *self.apis.values()]
        for process in processes:
            process.thaw()
            if not process.alive:
                process.restart()

    @property
    def _ledger_url(self) -> str:
        return f"sqlite:///{self.ledger_file}"

    def _gate(self, node: Node) -> Gate:
        async def snapshot() -> Snapshot:
            return await self._database.read(read_snapshot)

        return Gate(node, snapshot, clock=SystemClock(), sale_id=1)

    def _api(self, name: str) -> ApiProcess:
        folder = self.home / name.replace(" ", "-").lower()
        folder.mkdir()
        environment = {
            **hurtable(folder),
            **UNMETERED,
            "LABSHOP_DATABASE_URL": self._ledger_url,
            "LABSHOP_JWT_SECRET": self._secret,
        }
        if self._strategy is not None:
            environment["LABSHOP_STRATEGY"] = self._strategy
        return ApiProcess(
            self.topology.leash,
            self.home,
            gate_url=self._url(PRIMARY, name),
            lock_urls=[self._url(lock_node, name) for lock_node in self.lock_nodes],
            host=LOOPBACK,
            port=free_port(),
            env=environment,
        )

    def _url(self, server: str, client: str) -> str:
        return f"redis://{LOOPBACK}:{self.network.port(server, client)}"
