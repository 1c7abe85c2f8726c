"""Stage 4: the fastest lock is none.

Behind a lock, buyers of one product stand in line for two round trips and a disk each. But
the gate is one atomic step already, and the ledger refuses what the stock forbids: nothing
was protected by the lock that they do not protect. Without it, a thousand buyers go through
the gate at once, and whatever has queued at the ledger is written in one transaction, and
flushed to disk once. Nobody is told "bought" before that.

What is left of the lock is where only one may act: the scheduler's leader. What keeps this
stage alive when its stores are not is `labshop.stages.harden`, which wraps any stage.

What this stage does not do: wait. A buyer who meets the last units reserved by others is
told to come again.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.saga import Saga
from labshop.stages.base import Toolbox


class Purchase:
    """Buy without a lock: gate, ledger, answer."""

    def __init__(self, tools: Toolbox) -> None:
        self.inventory = tools.inventory
        self.ledger = tools.ledger

    async def buy(self, order: Order) -> Receipt:
        """Book an order of one to ten products, all of it or nothing.

        Raises:
            See `PurchaseStrategy.buy`.
        """
        order = order.merged()

        async with Saga() as saga:
            saga.undo_with(lambda: self.inventory.release(order.id))
            await self.inventory.reserve(order)
            receipt = await self.ledger.record(order, fence=0)
        self.inventory.confirm_soon(receipt)

        return receipt
