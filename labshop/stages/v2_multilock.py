"""Stage 2: several products at once, and bundles, without deadlock.

A buyer of a console and a game needs two locks. Two such buyers who take them in opposite
orders hold one each, and wait for the other for ever. So the lines of an order are merged
per product, and locked in ascending order: then whoever holds the highest product can
always go on. All locks or none, all units or none, one row in the ledger.

The transaction begins when the locks are held, and ends when the ledger has committed: no
payment, no e-mail, nothing that may take long stands in between.

What this stage does not do: go on when its one node is gone.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.saga import Saga
from labshop.stages.base import Toolbox


class Purchase:
    """Buy under the locks of all products, or of none."""

    def __init__(self, tools: Toolbox) -> None:
        self.lock = tools.lock
        self.inventory = tools.inventory
        self.ledger = tools.ledger
        self.lock_wait_ms = tools.lock_wait_ms

    async def buy(self, order: Order) -> Receipt:
        """Book an order of one to ten products, all of it or nothing.

        Raises:
            See `PurchaseStrategy.buy`.
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
