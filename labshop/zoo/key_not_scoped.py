"""Idempotency keys of all users share one table.

Origin: keys stored under `idem:{key}` alone. Two clients that count their requests from 1 use
the same key, and the second is shown the order of the first.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "idempotency"
SCENARIO = "same key"


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.node, self.ledger = tools.node, tools.ledger
        self.receipts: dict[str | None, Receipt] = {}

    async def buy(self, order: Order) -> Receipt:
        if order.idempotency_key in self.receipts:
            return self.receipts[order.idempotency_key]
        line = order.single_line()
        key = f"stock:{line.product_id}"
        left = int(await self.node.command("DECRBY", key, line.quantity))
        if left < 0:
            await self.node.command("INCRBY", key, line.quantity)
            raise SoldOut(line.product_id, left)
        receipt = await self.ledger.record(order, fence=0)
        self.receipts[order.idempotency_key] = receipt
        return receipt
