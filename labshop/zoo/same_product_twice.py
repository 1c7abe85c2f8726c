"""Each line of an order is checked by itself, though two name the same product.

Origin: medusa issue 16502: the demand per SKU was not summed before it was checked. Two lines
of two units each pass where three units are left.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "no-oversell"
SCENARIO = "two lines"


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.tools = tools

    async def buy(self, order: Order) -> Receipt:
        node, wait_ms = self.tools.node, self.tools.lock_wait_ms
        async with self.tools.lock("all products").hold(wait_ms=wait_ms) as lease:
            for line in order.lines:
                left = int(await node.command("GET", f"stock:{line.product_id}"))
                if left < line.quantity:
                    raise SoldOut(line.product_id, left)
            for line in order.lines:
                await node.command("DECRBY", f"stock:{line.product_id}", line.quantity)
            return await self.tools.ledger.record(order, fence=lease.fence)
