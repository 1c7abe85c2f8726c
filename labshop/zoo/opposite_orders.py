"""Locks are taken in the order in which a buyer names the products.

Origin: the classic of two transfers between two accounts. One buyer holds A and waits for B,
another holds B and waits for A; without a limit to the wait, both wait for ever.
"""

import asyncio
from collections import defaultdict

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import SoldOut
from labshop.stages.base import Toolbox

CAUGHT_BY = "definite-answers"
SCENARIO = "bundles"


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.node, self.ledger = tools.node, tools.ledger
        self.locks: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def buy(self, order: Order) -> Receipt:
        lines = order.lines if order.user_id // 2 % 2 else order.lines[::-1]
        first, second = lines[0].product_id, lines[-1].product_id
        async with self.locks[first]:
            await self.node.command("GET", f"stock:{first}")
            async with self.locks[second]:
                for line in lines:
                    left = int(await self.node.command("GET", f"stock:{line.product_id}"))
                    if left < line.quantity:
                        raise SoldOut(line.product_id, left)
                for line in lines:
                    key = f"stock:{line.product_id}"
                    await self.node.command("DECRBY", key, line.quantity)
                return await self.ledger.record(order, fence=0)
