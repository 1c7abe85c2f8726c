"""A lease that its holder outlives: the lock is right, and the write comes too late.

Origin: M. Kleppmann, "How to do distributed locking" (2016): HBase had it. The lease ends while
its holder stands still; another buys; the first wakes, writes, and nobody compares a fence.
"""

from labshop.shop.domain import Order, Receipt
from labshop.stages.base import Toolbox

CAUGHT_BY = "no-stale-fence"
SCENARIO = "paused holder"


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.tools = tools

    async def buy(self, order: Order) -> Receipt:
        lock = self.tools.lock(f"product:{order.single_line().product_id}")
        async with lock.hold(wait_ms=self.tools.lock_wait_ms):
            await self.tools.inventory.reserve(order)
            receipt = await self.tools.ledger.record(order, fence=0)
            await self.tools.inventory.confirm(receipt)
            return receipt
