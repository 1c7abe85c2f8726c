"""The stock is loaded into Redis when the service starts, whatever has been sold by then.

Origin: `@PostConstruct` and start-up hooks that SET the configured stock. A restart in
mid-sale, or a second instance, puts every sold unit on sale again.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "no-oversell"
SCENARIO = "restart"

CONFIGURED_STOCK = 10


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.node, self.ledger = tools.node, tools.ledger
        self.is_warm = False

    async def buy(self, order: Order) -> Receipt:
        line = order.single_line()
        key = f"stock:{line.product_id}"
        if not self.is_warm:
            self.is_warm = True
            await self.node.command("SET", key, CONFIGURED_STOCK)
        left = int(await self.node.command("DECRBY", key, line.quantity))
        if left < 0:
            await self.node.command("INCRBY", key, line.quantity)
            raise SoldOut(line.product_id, left)
        return await self.ledger.record(order, fence=0)
