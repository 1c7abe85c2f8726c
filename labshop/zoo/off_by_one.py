"""`>=` where `>` is meant: the last unit is sold once more.

Origin: seckill scripts that test `stock >= 0` before the decrement. The lock is right, the
step is atomic, and one unit too many is sold in every sale.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "no-oversell"
SCENARIO = "alone"


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.tools = tools

    async def buy(self, order: Order) -> Receipt:
        product = order.single_line().product_id
        key, wait_ms = f"stock:{product}", self.tools.lock_wait_ms
        async with self.tools.lock(f"product:{product}").hold(wait_ms=wait_ms) as lease:
            left = int(await self.tools.node.command("GET", key))
            if not left >= 0:
                raise SoldOut(product, left)
            await self.tools.node.command("DECRBY", key, 1)
            return await self.tools.ledger.record(order, fence=lease.fence)
