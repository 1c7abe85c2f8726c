"""The per-user limit is read, compared, and counted up after the purchase.

Origin: hfbin/Seckill issue 14: the one-per-user check is not in the same step as the decrement.
A user with five tabs reads five times that nothing was bought yet.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import LimitReached, SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "limit-per-user"
SCENARIO = "five tabs"

LIMIT = 2


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.node, self.ledger = tools.node, tools.ledger

    async def buy(self, order: Order) -> Receipt:
        line = order.single_line()
        key, bought = f"stock:{line.product_id}", f"bought:{order.user_id}"
        units = int(await self.node.command("GET", bought) or 0)
        if units + line.quantity > LIMIT:
            raise LimitReached(LIMIT, units)
        left = int(await self.node.command("DECRBY", key, line.quantity))
        if left < 0:
            await self.node.command("INCRBY", key, line.quantity)
            raise SoldOut(line.product_id, left)
        receipt = await self.ledger.record(order, fence=0)
        await self.node.command("INCRBY", bought, line.quantity)
        return receipt
