"""A lock in the memory of one process, where two processes sell.

Origin: `synchronized` methods and `asyncio.Lock` in seckill projects, correct until the service
is scaled to a second instance; then each instance has a lock of its own.
"""

import asyncio

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "no-oversell"
SCENARIO = "alone"


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.node, self.ledger = tools.node, tools.ledger
        self.lock = asyncio.Lock()

    async def buy(self, order: Order) -> Receipt:
        line = order.single_line()
        key = f"stock:{line.product_id}"
        async with self.lock:
            left = int(await self.node.command("GET", key))
            if left < line.quantity:
                raise SoldOut(line.product_id, left)
            await self.node.command("SET", key, left - line.quantity)
        return await self.ledger.record(order, fence=0)
