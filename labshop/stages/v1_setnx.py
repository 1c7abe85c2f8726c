"""Stage 1: one product, one lock, one Redis.

A thousand buyers press *buy* at once. Whoever holds the product's lock reserves a unit at
the gate, books it in the ledger, and lets the next one in.

Three things protect the stock, each for itself: the lock lets one buyer at a time through,
the gate takes units away in one atomic step, and the ledger refuses what the stock or a
newer fencing token forbids. So the lock may fail, and nothing is oversold; the lock only
decides *who waits*.

What this stage does not do: sell two products at once, or go on when its one node is gone.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.saga import Saga
from labshop.stages.base import Toolbox


class Purchase:
    """Buy under a lock on the product."""

    def __init__(self, tools: Toolbox) -> None:
        self.lock = tools.lock
        self.inventory = tools.inventory
        self.ledger = tools.ledger
        self.lock_wait_ms = tools.lock_wait_ms

    async def buy(self, order: Order) -> Receipt:
        """Book an order of a single product.

        Raises:
            BadOrder: it has several products. See `PurchaseStrategy.buy` for the others.
        """
        product_id = order.single_line().product_id

        async with self.lock(f"product:{product_id}").hold(wait_ms=self.lock_wait_ms) as lease:
            async with Saga() as saga:
                saga.undo_with(lambda: self.inventory.release(order.id))
                await self.inventory.reserve(order)
                receipt = await self.ledger.record(order, fence=lease.fence)
            await self.inventory.confirm(receipt)

        return receipt
