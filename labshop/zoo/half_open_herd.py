"""A circuit breaker that lets everybody through when it is half open.

Origin: the roadmap's own sample, and three of four breaker libraries measured for this course.
The database that has just come back is met by the whole queue at once.
"""

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import Unavailable
from labshop.shop.events import Event
from labshop.shop.saga import Saga
from labshop.stages.base import Toolbox

CAUGHT_BY = "one-probe"
SCENARIO = "ledger outage"

FAILURES, RECOVERY_MS = 3, 200


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.tools = tools
        self.state, self.failures, self.opened_ms = "closed", 0, 0.0

    async def buy(self, order: Order) -> Receipt:
        async with Saga() as saga:
            saga.undo_with(lambda: self.tools.inventory.release(order.id))
            await self.tools.inventory.reserve(order)
            receipt = await self.record(order)
        await self.tools.inventory.confirm(receipt)
        return receipt

    async def record(self, order: Order) -> Receipt:
        clock = self.tools.clock
        if self.state == "open":
            if clock.now_ms() - self.opened_ms < RECOVERY_MS:
                raise Unavailable("ledger", "the breaker is open")
            self.change("half_open")
        try:
            receipt = await self.tools.ledger.record(order, fence=0)
        except Unavailable:
            self.failures += 1
            if self.failures >= FAILURES:
                self.opened_ms = clock.now_ms()
                self.change("open")
            raise
        self.failures = 0
        self.change("closed")
        return receipt

    def change(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.tools.publish(Event("breaker", {"name": "ledger", "state": state}))
