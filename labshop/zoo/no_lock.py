"""No lock at all: read the stock, check it, write it back one smaller.

Origin: the first version of nearly every flash-sale repository, and of the demo in this very
course's roadmap. Between the read and the write, everybody else has read the same number.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "no-oversell"
SCENARIO = "alone"


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.node, self.ledger = tools.node, tools.ledger

    async def buy(self, order: Order) -> Receipt:
        line = order.single_line()
        key = f"stock:{line.product_id}"
        left = int(await self.node.command("GET", key))
        if left < line.quantity:
            raise SoldOut(line.product_id, left)
        await self.node.command("SET", key, left - line.quantity)
        return await self.ledger.record(order, fence=0)
