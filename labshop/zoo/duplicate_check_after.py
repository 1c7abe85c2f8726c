"""Whether the user has bought before is checked after the decrement, which stays.

Origin: springboot-seckill issue 35. Each second press of a button takes a unit out of the
counter, is refused, and the unit is never seen again.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import LimitReached, SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "no-undersell"
SCENARIO = "pressed twice"


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
        if not await self.node.command("SADD", f"buyers:{line.product_id}", order.user_id):
            raise LimitReached(1, 1)
        return await self.ledger.record(order, fence=0)
