"""An idempotency key is looked up first and stored last.

Origin: "check if the request was processed" middleware. A double click sends both requests
before either is stored, and the buyer pays twice.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "idempotency"
SCENARIO = "double click"


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.node, self.ledger = tools.node, tools.ledger
        self.receipts: dict[str, Receipt] = {}

    async def buy(self, order: Order) -> Receipt:
        line = order.single_line()
        key, request = f"stock:{line.product_id}", f"request:{order.idempotency_key}"
        seen = await self.node.command("GET", request)
        if seen in self.receipts:
            return self.receipts[seen]
        left = int(await self.node.command("DECRBY", key, line.quantity))
        if left < 0:
            await self.node.command("INCRBY", key, line.quantity)
            raise SoldOut(line.product_id, left)
        receipt = await self.ledger.record(order, fence=0)
        self.receipts[str(receipt.order_id)] = receipt
        await self.node.command("SET", request, str(receipt.order_id))
        return receipt
