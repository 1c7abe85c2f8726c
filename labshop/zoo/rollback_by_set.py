"""A failed purchase is undone by writing back the number that was read before.

Origin: the compensation in the roadmap's own sample for v1; a measured run sold 181 of 100.
Whatever others have bought in the meantime is on sale once more.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import Refused, SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "no-oversell"
SCENARIO = "late refusal"


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.node, self.ledger = tools.node, tools.ledger

    async def buy(self, order: Order) -> Receipt:
        line = order.single_line()
        key = f"stock:{line.product_id}"
        left = int(await self.node.command("DECRBY", key, line.quantity))
        before = left + line.quantity
        if left < 0:
            await self.node.command("INCRBY", key, line.quantity)
            raise SoldOut(line.product_id, before)
        try:
            return await self.ledger.record(order, fence=0)
        except Refused:
            await self.node.command("SET", key, before)
            raise
