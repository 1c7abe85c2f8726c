"""The commit fails after the decrement, and nobody gives the unit back.

Origin: decrement in Redis, insert in SQL, and an exception between the two that only logs.
Each such unit can never be sold: the sale ends with stock that nobody may buy.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "no-undersell"
SCENARIO = "late refusal"


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.node, self.ledger = tools.node, tools.ledger

    async def buy(self, order: Order) -> Receipt:
        line = order.single_line()
        key = f"stock:{line.product_id}"
        left = int(await self.node.command("DECRBY", key, line.quantity))
        if left < 0:
            await self.node.command("INCRBY", key, line.quantity)
            raise SoldOut(line.product_id, left)
        return await self.ledger.record(order, fence=0)
