"""Settles what a crash, a lost message or a wiped Redis left between gate and ledger.

The problem: a process can die between reserving at the gate and booking in the ledger, or
between booking and saying so. The idea: the ledger knows. A reservation that is older than
any request is looked up there, and confirmed or given back; cancellations are told to the
gate once more; a gate that contradicts the ledger, or missed a message, is built anew.

Every process does so, again and again, for each of these steps may be done twice; and only the
process itself knows what it could not tell the gate. Where the gate's numbers are wrong though
nothing is untold, one process adds what is missing: see `labshop.ops.repair`.

An order may still be on its way when its reservation is given back. That is safe: the ledger
decides about it like about any other, and confirming it takes the units from the gate again.
"""

import structlog

from labshop.storage.inventory import RedisInventory
from labshop.storage.ledger import SqlLedger
from labshop.storage.shards import ShardedInventory

log = structlog.get_logger()


class Reconciler:
    """Looks after one gate and its ledger.

    Args:
        reservation_ttl_ms: age at which a reservation is looked up.
    """

    def __init__(
        self,
        inventory: RedisInventory | ShardedInventory,
        ledger: SqlLedger,
        *,
        reservation_ttl_ms: int,
    ) -> None:
        self._inventory = inventory
        self._ledger = ledger
        self._reservation_ttl_ms = reservation_ttl_ms
        self._told_up_to: int | None = None

    async def look(self) -> None:
        """Repair what is found to be wrong at this moment.

        Raises:
            Unavailable: gate or ledger cannot be reached.
        """
        if self._inventory.gate.suspect or self._ledger.contradicted:
            self._inventory.gate.suspect = True
            # A transaction that somebody has given up waiting for must be in the snapshot.
            await self._ledger.catch_up()
            await self._inventory.gate.rebuild()
            # Whom the ledger has refused meanwhile had passed the gate before this one.
            self._ledger.contradicted = False
            log.info("reconcile.rebuilt")
        await self._tell_cancellations()
        for order_id in await self._inventory.abandoned(older_than_ms=self._reservation_ttl_ms):
            receipt = await self._ledger.find(order_id)
            if receipt is None:
                await self._inventory.release(order_id)
            elif receipt.status == "confirmed":
                await self._inventory.confirm(receipt)
            else:
                # Booked and cancelled, and the gate knows of neither.
                self._inventory.gate.suspect = True
            log.info("reconcile.settled", order_id=str(order_id), booked=receipt is not None)

    async def _tell_cancellations(self) -> None:
        """Tell the gate of cancellations anew: whoever cancelled may have died before it did.

        Told twice, a cancellation counts once.
        """
        if self._told_up_to is None:
            # What is older is in the snapshot from which this process built the gate at its start.
            self._told_up_to = await self._ledger.sequence()
        for receipt, sequence in await self._ledger.cancelled_since(self._told_up_to):
            await self._inventory.put_back(receipt, sequence)
            self._told_up_to = sequence
