"""A bare DECRBY, checked afterwards, that never gives back what it took in vain.

Origin: `if redis.decrby(stock, n) < 0: sold out`, in many tutorials. A buyer of three who meets
one last unit leaves the counter at minus two, and the last unit is lost for everybody.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "no-undersell"
SCENARIO = "families first"


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.node, self.ledger = tools.node, tools.ledger

    async def buy(self, order: Order) -> Receipt:
        line = order.single_line()
        left = int(await self.node.command("DECRBY", f"stock:{line.product_id}", line.quantity))
        if left < 0:
            raise SoldOut(line.product_id, left)
        return await self.ledger.record(order, fence=0)
