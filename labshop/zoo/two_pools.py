"""When Redis does not answer in time, the unit is taken from the database's own stock.

Origin: "high availability" fallbacks. A timeout is no refusal: Redis carries the command out
when it wakes, so both pools sell, and together they hold more than there is.
"""

from labshop.locks import NodeError
from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "no-oversell"
SCENARIO = "frozen gate"

STOCK_IN_DATABASE = 20


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.node, self.ledger = tools.node, tools.ledger
        self.left_in_database = STOCK_IN_DATABASE

    async def buy(self, order: Order) -> Receipt:
        line = order.single_line()
        key = f"stock:{line.product_id}"
        try:
            left = int(await self.node.command("DECRBY", key, line.quantity))
            if left < 0:
                await self.node.command("INCRBY", key, line.quantity)
                raise SoldOut(line.product_id, left)
        except NodeError:
            if self.left_in_database < line.quantity:
                raise SoldOut(line.product_id, self.left_in_database) from None
            self.left_in_database -= line.quantity
        return await self.ledger.record(order, fence=0)
