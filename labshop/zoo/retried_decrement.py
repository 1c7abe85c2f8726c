"""A client that sends a DECRBY again when its reply is lost.

Origin: redis-py 8 retries every command, up to ten times, by default. A reply that is lost does
not mean that the command was: the stock falls by two, or five, and no error is seen.
"""

from redis.asyncio import Redis
from redis.exceptions import RedisError

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import SoldOut, Unavailable
from labshop.stages.base import Toolbox

CAUGHT_BY = "no-undersell"
SCENARIO = "lost replies"


class Purchase:
    def __init__(self, tools: Toolbox) -> None:
        self.ledger = tools.ledger
        self.redis = Redis(host=tools.node.host, port=tools.node.port, socket_timeout=0.1)

    async def buy(self, order: Order) -> Receipt:
        line = order.single_line()
        key = f"stock:{line.product_id}"
        try:
            left = await self.redis.decrby(key, line.quantity)
            if left < 0:
                await self.redis.incrby(key, line.quantity)
                raise SoldOut(line.product_id, left)
        except RedisError as error:
            raise Unavailable("gate", str(error)) from error
        return await self.ledger.record(order, fence=0)

    async def aclose(self) -> None:
        """A trial closes what a strategy has opened."""
        await self.redis.aclose()
