"""What is asked of the gate: stock in Redis, fast enough to turn a crowd away, never the truth.

The problem: Redis may lose its memory, a process may die between two steps, and sales go on.
The idea: the gate is a projection of the ledger that can be built anew at any moment; how it is
built stands in `labshop.storage.gate`.

- A reservation moves units from *left* to *held*; its order is noted, so that giving back or
  confirming happens once, however often it is asked for.
- The gate knows the ledger's sequence number from which it was built, and its *epoch*. When
  an order that was reserved in an earlier epoch is confirmed, the gate takes its units if
  and only if the snapshot did not include the sale yet.
- What could not be told to the gate makes it *suspect*: it is dropped and built anew.

So left + held + sold is the initial stock, whenever no message is on its way. It does not
promise that whoever passes the gate gets a unit: the ledger decides.

All keys of a sale share one hash tag, so that a Redis Cluster keeps them on one node.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from labshop.clock import Clock
from labshop.locks.connection import Node
from labshop.locks.wire import Part, Reply
from labshop.lua import load_script
from labshop.shop.domain import Line, Order, Receipt
from labshop.shop.errors import (
    LimitReached,
    NoSuchProduct,
    PurchaseError,
    Refused,
    SaleClosed,
    SignedOut,
    SoldOut,
    StockHeld,
    Unavailable,
)
from labshop.storage.gate import HEAT_TRIES, Gate, as_ms
from labshop.storage.records import Snapshot
from labshop.storage.sold_out import SoldOutFlags

REMEMBER_MS = 600_000
"""How long a settled order is remembered; far longer than any message is on its way."""
SWEEP_SIZE = 100
COLD_TRIES, COLD_PAUSE_S = 240, 0.25
"""Sales are told to a gate that is being built again and again, for as long as that may take."""


class RedisInventory:
    """The gate of one sale on one node.

    Args:
        node: the server that holds it.
        snapshot: reads the ledger; the source when the gate is built.
        sale_id: which sale.
        gate: on that node, where it is not built like any other; None makes one.
    """

    def __init__(
        self,
        node: Node,
        snapshot: Callable[[], Awaitable[Snapshot]],
        *,
        clock: Clock,
        sale_id: int = 1,
        gate: Gate | None = None,
    ) -> None:
        self.gate = gate or Gate(node, snapshot, clock=clock, sale_id=sale_id)
        self.sold_out = SoldOutFlags(clock)
        self.sold_out.hear(self.gate)
        self._sold: list[Receipt] = []

    async def reserve(self, order: Order) -> None:
        """Set the order's units aside. See `labshop.stages.base.Inventory`."""
        asked_ms = self.sold_out.refuse(order.lines)
        order_id = str(order.id)
        args: list[Part] = [order_id, order.user_id, order.token_id, *_flat(order.lines)]
        answer = await self._settle("reserve_stock", order_id, args, self.gate.revoked)
        refusal = _refusal(answer)
        if refusal is not None:
            self.sold_out.note(answer, asked_ms)
            raise refusal

    async def release(self, order_id: UUID) -> None:
        """Give back what the order had reserved, once."""
        args = (str(order_id), REMEMBER_MS)
        keys = self._keys(str(order_id))
        await self.gate.believed(lambda: self.gate.run("release_reservation", keys, args))

    async def confirm(self, receipt: Receipt) -> None:
        """Turn the reservation into a sale. If the gate cannot be told, it becomes suspect."""
        order_id = str(receipt.order_id)
        await self._tell("confirm_sale", order_id, [REMEMBER_MS, *_sale(order_id, receipt)])

    def confirm_soon(self, receipt: Receipt) -> None:
        """The same, with all others of this turn of the event loop, and not waited for."""
        if not self._sold:
            asyncio.get_running_loop().call_soon(self._confirm_all)
        self._sold.append(receipt)

    def _confirm_all(self) -> None:
        sold, self._sold = self._sold, []
        self._confirm(sold, tries=COLD_TRIES)

    def _confirm(self, sold: Sequence[Receipt], *, tries: int) -> None:
        gate, script = self.gate, load_script("labshop.storage", "confirm_sale")
        keys = [gate.key, gate.bought, gate.held]
        args: list[Part] = [REMEMBER_MS]
        for receipt in sold:
            order_id = str(receipt.order_id)
            keys.append(self._key(order_id))
            args += _sale(order_id, receipt)
        told = gate.node.post(script, keys, args)
        told.add_done_callback(lambda told: self._look_at_answer(told, sold, tries))

    def _look_at_answer(
        self, told: "asyncio.Future[Reply]", sold: Sequence[Receipt], tries: int
    ) -> None:
        is_lost = told.cancelled() or told.exception() is not None
        if not is_lost and told.result() != "cold":
            return
        if is_lost or not tries:
            self.gate.suspect = True
            return
        # A gate that is being built has perhaps read the ledger before these sales: it is told when
        # it is there. To build it once more would do the same to those who are buying by then.
        again = partial(self._confirm, sold, tries=tries - 1)
        asyncio.get_running_loop().call_later(COLD_PAUSE_S, again)

    async def sign_out(self, token_id: str, ends_at: datetime) -> None:
        """Refuse a token from here on; the ledger knows already that it was taken back.

        Raises:
            Unavailable: the gate cannot be reached; it is built anew from the ledger.
        """
        try:
            await self.gate.run("revoke_token", (self.gate.revoked,), (token_id, as_ms(ends_at)))
        except BaseException:
            self.gate.suspect = True
            raise

    async def put_back(self, receipt: Receipt, sequence: int) -> None:
        """Put a cancelled order's units back on sale.

        Args:
            receipt: the cancelled order.
            sequence: the ledger's number of the cancellation.
        """
        order_id = str(receipt.order_id)
        args: list[Part] = [order_id, receipt.user_id, REMEMBER_MS]
        args += [sequence, receipt.sequence, *_flat(receipt.lines)]
        await self._tell("return_units", order_id, args)

    async def left(self, product_id: int) -> int:
        """Units that can be reserved at this moment.

        Raises:
            NoSuchProduct, Unavailable.
        """
        return max((await self._count(product_id))[0], 0)

    async def unsold(self, product_id: int) -> int:
        """Units left and held together.

        Raises:
            NoSuchProduct, Unavailable.
        """
        return sum(await self._count(product_id))

    async def abandoned(self, *, older_than_ms: int) -> list[UUID]:
        """Orders that were reserved that long ago and have not been settled."""
        args = (older_than_ms, SWEEP_SIZE)
        ids = await self.gate.believed(
            lambda: self.gate.run("list_abandoned", (self.gate.held,), args)
        )
        return [UUID(order_id) for order_id in ids]

    async def _count(self, product_id: int) -> tuple[int, int]:
        """Units left and held; a gate that is not there is built first."""
        fields = ("epoch", f"left:{product_id}", f"held:{product_id}")
        for _ in range(HEAT_TRIES):
            epoch, left, held = await self.gate.believed(
                lambda: self.gate.ask("HMGET", self.gate.key, *fields)
            )
            if epoch is not None and left is None:
                raise NoSuchProduct(product_id)
            if epoch is not None:
                return int(left), int(held or 0)
            await self.gate.heat()
        raise Unavailable("gate", "it is emptied faster than it is built")

    async def _tell(self, script: str, order_id: str, args: Sequence[Part]) -> None:
        try:
            await self._settle(script, order_id, args)
        except Refused:
            # The ledger's word stands. The gate is built anew from it as soon as it can be.
            self.gate.suspect = True
        except BaseException:
            self.gate.suspect = True
            raise

    async def _settle(
        self, script: str, order_id: str, args: Sequence[Part], *more_keys: str
    ) -> Sequence[str]:
        """Run a script on an order; where it finds no gate, build one and run it again."""
        keys = (*self._keys(order_id), *more_keys)
        for _ in range(HEAT_TRIES):
            answer = await self.gate.believed(lambda: self.gate.run(script, keys, args))
            if answer not in ("cold", ["cold"]):
                return answer if isinstance(answer, list) else [answer]
            await self.gate.heat()
        raise Unavailable("gate", "it is emptied faster than it is built")

    def _keys(self, order_id: str) -> tuple[str, str, str, str]:
        return self.gate.key, self.gate.bought, self.gate.held, self._key(order_id)

    def _key(self, order_id: str) -> str:
        return f"{self.gate.tag}:order:{order_id}"


def _sale(order_id: str, receipt: Receipt) -> list[Part]:
    lines = _flat(receipt.lines)
    return [order_id, receipt.user_id, receipt.sequence, len(receipt.lines), *lines]


def _flat(lines: Sequence[Line]) -> list[Part]:
    return [part for line in lines for part in (line.product_id, line.quantity)]


def _refusal(answer: Sequence[str]) -> PurchaseError | None:  # noqa: PLR0911  # one a case
    match answer:
        case ["reserved"]:
            return None
        case ["sold_out", product_id, left, _]:
            return SoldOut(int(product_id), int(left))
        case ["held", product_id]:
            return StockHeld(int(product_id))
        case ["limit", limit, bought]:
            return LimitReached(int(limit), int(bought))
        case ["no_product", product_id]:
            return NoSuchProduct(int(product_id))
        case ["signed_out"]:
            return SignedOut()
        case ["closed"]:
            return SaleClosed()
        case _:
            return Unavailable("gate", f"this order was given up before ({' '.join(answer)})")
