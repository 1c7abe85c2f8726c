"""The buyer is told "bought" before the order is on disk.

Origin: write-behind queues in memory, in the fastest of the flash-sale engines. When the
database is away for longer than the queue is ready to try, receipts are left without orders.
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import PurchaseError, SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "durable-orders"
SCENARIO = "ledger outage"


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.node, self.ledger = tools.node, tools.ledger
        self.queue: set[asyncio.Task[None]] = set()

    async def buy(self, order: Order) -> Receipt:
        line = order.single_line()
        key = f"stock:{line.product_id}"
        left = int(await self.node.command("DECRBY", key, line.quantity))
        if left < 0:
            await self.node.command("INCRBY", key, line.quantity)
            raise SoldOut(line.product_id, left)
        task = asyncio.create_task(self.write(order))
        self.queue.add(task)
        task.add_done_callback(self.queue.discard)
        at = datetime.now(UTC)
        return Receipt(order.id, order.user_id, order.lines, 0, 0, 0, "confirmed", at)

    async def write(self, order: Order) -> None:
        with suppress(PurchaseError):
            await self.ledger.record(order, fence=0)
