"""A sold-out flag in the process' memory that nobody clears.

Origin: the `localOverMap` of many seckill projects, which spares Redis the crowd. After a
restock, or a cancelled order, every instance still says "sold out".
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "no-undersell"
SCENARIO = "restock"


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.node, self.ledger = tools.node, tools.ledger
        self.sold_out: set[int] = set()

    async def buy(self, order: Order) -> Receipt:
        line = order.single_line()
        key = f"stock:{line.product_id}"
        if line.product_id in self.sold_out:
            raise SoldOut(line.product_id, 0)
        left = int(await self.node.command("DECRBY", key, line.quantity))
        if left < 0:
            self.sold_out.add(line.product_id)
            await self.node.command("INCRBY", key, line.quantity)
            raise SoldOut(line.product_id, left)
        return await self.ledger.record(order, fence=0)
