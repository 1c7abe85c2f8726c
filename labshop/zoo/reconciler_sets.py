"""A reconciler that reads what is sold, computes what should be left, and SETs it.

Origin: hourly jobs that "repair" Redis from SQL. Purchases that are between the decrement and
their commit are in neither number, so each repair puts their units on sale again.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "no-oversell"
SCENARIO = "one in flight"

CONFIGURED_STOCK = 20
RECONCILE_EVERY = 4


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.node, self.ledger = tools.node, tools.ledger
        self.purchases = 0

    async def buy(self, order: Order) -> Receipt:
        line = order.single_line()
        key, sold = f"stock:{line.product_id}", f"sold:{line.product_id}"
        left = int(await self.node.command("DECRBY", key, line.quantity))
        if left < 0:
            await self.node.command("INCRBY", key, line.quantity)
            raise SoldOut(line.product_id, left)
        receipt = await self.ledger.record(order, fence=0)
        await self.node.command("INCRBY", sold, line.quantity)
        self.purchases += 1
        if self.purchases % RECONCILE_EVERY == 0:
            await self.reconcile(key, sold)
        return receipt

    async def reconcile(self, key: str, sold: str) -> None:
        left = int(await self.node.command("GET", key))
        should_be_left = CONFIGURED_STOCK - int(await self.node.command("GET", sold))
        if left != should_be_left:
            await self.node.command("SET", key, should_be_left)
