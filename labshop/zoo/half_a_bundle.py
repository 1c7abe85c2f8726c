"""A bundle of which one product is short is sold without it.

Origin: shopping carts that drop unavailable lines at the checkout. The buyer of a console with
a game gets the game.
"""

from dataclasses import replace

from labshop.shop.domain import Line, Order, Receipt
from labshop.shop.errors import SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "all-or-nothing"
SCENARIO = "bundles"


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.node, self.ledger = tools.node, tools.ledger

    async def buy(self, order: Order) -> Receipt:
        lines = [line for line in order.lines if await self.take(line)]
        if not lines:
            raise SoldOut(order.lines[0].product_id, 0)
        return await self.ledger.record(replace(order, lines=tuple(lines)), fence=0)

    async def take(self, line: Line) -> bool:
        key = f"stock:{line.product_id}"
        if int(await self.node.command("DECRBY", key, line.quantity)) >= 0:
            return True
        await self.node.command("INCRBY", key, line.quantity)
        return False
