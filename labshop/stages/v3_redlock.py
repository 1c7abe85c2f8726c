"""Stage 3: the same sale, whose locks survive the death of two nodes of five.

The locks of stage 2 are gone when their one node is. Here a lock is held on a majority of
five independent masters: two may die, hang, or be cut off, and buyers go on. Three may not:
then nobody gets a lock, nothing is sold, and nothing is lost.

The fencing token comes from the ledger. A counter in Redis would start anew after a
failover, and a token that repeats protects nothing.

What this stage does not do: trust its lock. A holder can pause, a node's clock can jump, and
then two buyers believe that they hold the same product; the gate and the ledger keep the
stock right all the same. It does not sell when the gate's one node is gone, either.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.saga import Saga
from labshop.stages.base import Toolbox


class Purchase:
    """Buy under the locks of all products, or of none, each held by a majority of nodes."""

    def __init__(self, tools: Toolbox) -> None:
        self.lock = tools.quorum_lock
        self.inventory = tools.inventory
        self.ledger = tools.ledger
        self.lock_wait_ms = tools.lock_wait_ms

    async def buy(self, order: Order) -> Receipt:
        """Book an order of one to ten products, all of it or nothing.

        Raises:
            NoQuorum: too few nodes can vote; nothing was booked.
            See `PurchaseStrategy.buy` for the others.
        """
        order = order.merged()
        products = [f"product:{line.product_id}" for line in order.lines]

        async with self.lock(*products).hold(wait_ms=self.lock_wait_ms) as lease:
            async with Saga() as saga:
                saga.undo_with(lambda: self.inventory.release(order.id))
                await self.inventory.reserve(order)
                receipt = await self.ledger.record(order, fence=lease.fence)
            await self.inventory.confirm(receipt)

        return receipt
