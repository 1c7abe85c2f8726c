"""What one trial plays on: two branches of a shop, and the ledger that both write.

A branch is one API process' worth of shop in this process. `settle` is the shop's own repair, run
until nothing is left to repair: after it, gate and ledger must agree.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

from labshop.api.shop import Shop
from labshop.lab.trial.gates import OtherGate
from labshop.lab.trial.ledgers import SETUP_TIMEOUT_MS
from labshop.lab.trial.unguarded import UnguardedLedger
from labshop.locks import Node
from labshop.shop.errors import PurchaseError
from labshop.stages.base import Toolbox
from labshop.storage.database import Database
from labshop.storage.inventory import RedisInventory
from labshop.storage.records import Audit
from labshop.storage.tables import User

SETTLE_S = 15.0
_PAUSE_S = 0.02


@dataclass
class Branch:
    """One API process' worth of shop, in this process; `shop` is None without a guard."""

    name: str
    tools: Toolbox
    lock_nodes: tuple[Node, ...]
    shop: Shop | None = None

    @property
    def node(self) -> Node:
        """Its connection to the gate's Redis."""
        return self.tools.node


@dataclass
class Scene:
    """What one trial plays on: branches, where ledger and gate are, and how to audit the ledger.

    `gate` is None where it is the arena's primary; `unguarded`, where the ledger is the shop's own.
    """

    branches: list[Branch]
    ledger_url: str
    gate: OtherGate | None
    unguarded: UnguardedLedger | None
    _users: int = 0

    async def audit(self) -> Audit:
        """What the ledger holds at this moment."""
        if self.unguarded is not None:
            return await self.unguarded.audit()
        shop = self.branches[0].shop
        assert shop is not None
        return await shop.ledger.audit()

    async def users(self, count: int) -> list[int]:
        """So many new users, by their ids."""
        numbers = range(self._users + 1, self._users + count + 1)
        self._users += count
        if self.branches[0].shop is None:
            return list(numbers)
        return await asyncio.to_thread(add_users, self.ledger_url, numbers)

    async def restock(self, product: int, units: int) -> None:
        """Put more units on sale, in the ledger and at the gate."""
        shop = self.branches[0].shop
        if shop is not None:
            left = (await shop.ledger.snapshot()).left[product]
            await shop.ledger.adjust(product, units=left + units, actor="trial")
            await shop.inventory.gate.rebuild()
        elif self.unguarded is not None:
            self.unguarded.add_stock(product, units)
            if await self.uses_gate():
                await self._gate().gate.rebuild()

    def counter(self, product: int) -> str:
        """Where a strategy without a gate finds the stock; in a Cluster it is beside the gate."""
        name = f"stock:{product}"
        return f"{self._gate().gate.tag}:{name}" if self.branches[0].node.has_one_slot else name

    async def uses_gate(self) -> bool:
        """Whether there is a gate; a strategy without a guard may go its own way."""
        if self.branches[0].shop is not None:
            return True  # also where it is being built in this very moment
        return bool(await self.branches[0].node.command("EXISTS", self._gate().gate.key))

    async def unsold(self, product: int) -> int:
        """Units left and held at the gate."""
        return await self._gate().unsold(product)

    def _gate(self) -> RedisInventory:
        gate = self.branches[0].tools.inventory
        assert isinstance(gate, RedisInventory)
        return gate

    async def settle(self) -> None:
        """Let the shop repair what faults have left; returns when nothing is left to repair.

        Raises:
            TimeoutError: it was not repaired within `SETTLE_S`.
        """
        async with asyncio.timeout(SETTLE_S):
            for branch in self.branches:
                while branch.shop is not None and not await _is_settled(branch.shop):  # noqa: ASYNC110  # see `Reconciler`
                    await asyncio.sleep(_PAUSE_S)


def add_users(url: str, numbers: range) -> list[int]:
    """Add users to a ledger at once; not by the shop, whose patience is short in a trial."""
    database = Database(url, timeout_ms=SETUP_TIMEOUT_MS)
    at = datetime.now(UTC)
    users = [User(name=f"buyer-{it}", password_hash="!", created_at=at) for it in numbers]  # noqa: S106  # fits no password
    with database.writing() as session:
        session.add_all(users)
        session.commit()
        ids = [user.id for user in users]
    database.close()
    return [number for number in ids if number is not None]


async def _is_settled(shop: Shop) -> bool:
    try:
        await shop.ledger.catch_up()
        await shop.reconciler.look()
        waiting = await shop.inventory.abandoned(older_than_ms=0)
    except PurchaseError:
        return False
    return not (waiting or shop.inventory.gate.suspect or shop.ledger.contradicted)
