"""The gate: stock in Redis, fast enough to turn a crowd away, and never the truth.

The problem: Redis may lose its memory, a process may die between two steps, and sales go on.
The idea: the gate is a projection of the ledger that can be built anew at any moment.

- A reservation moves units from *left* to *held*; its order is noted, so that giving back or
  confirming happens once, however often it is asked for.
- The gate knows the ledger's sequence number from which it was built, and its *epoch*. When
  an order that was reserved in an earlier epoch is confirmed, the gate takes its units if
  and only if the snapshot did not include the sale yet.
- What could not be told to the gate makes it *suspect*: it is dropped and built anew.
- A server that was started again may have come back with an older memory. The gate knows in
  which run of the server it was built; over each new connection that is compared, before
  anything that the gate says is believed.

So left + held + sold is the initial stock, whenever no message is on its way. It does not
promise that whoever passes the gate gets a unit: the ledger decides.

All keys of a sale share one hash tag, so that a Redis Cluster keeps them on one node.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from uuid import UUID

from labshop.clock import Clock
from labshop.locks.connection import Node
from labshop.locks.errors import NodeError
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
from labshop.storage.records import Snapshot

REMEMBER_MS = 600_000
"""How long a settled order is remembered; far longer than any message is on its way."""
TICKET_MS = 15_000
"""How long reading the ledger for a new gate may take; a builder that died blocks it as long."""
HEAT_WAIT_MS = 5_000
HEAT_PAUSE_MS = 20
HEAT_TRIES = 10
SWEEP_SIZE = 100


class RedisInventory:
    """The gate of one sale on one node.

    Args:
        node: the server that holds it.
        snapshot: reads the ledger; the source when the gate is built.
        sale_id: which sale.
    """

    def __init__(
        self,
        node: Node,
        snapshot: Callable[[], Awaitable[Snapshot]],
        *,
        clock: Clock,
        sale_id: int = 1,
    ) -> None:
        self._node = node
        self._snapshot = snapshot
        self._clock = clock
        self._tag = f"{{sale:{sale_id}}}"
        self._gate, self._bought, self._held, self._ticket, self._revoked = (
            f"{self._tag}:{name}" for name in ("gate", "bought", "held", "ticket", "revoked")
        )
        self._believed_connection = 0
        self._comparing = asyncio.Lock()
        self.suspect = False
        """True when something could not be told to the gate, or it disagreed with the ledger."""

    @property
    def key(self) -> str:
        """The key of the gate itself; where it is missing, the gate is not built."""
        return self._gate

    async def reserve(self, order: Order) -> None:
        """Set the order's units aside. See `labshop.stages.base.Inventory`."""
        args: list[Part] = [str(order.id), order.user_id, order.token_id, *_flat(order.lines)]
        answer = await self._settle("reserve_stock", order.id, args, self._revoked)
        refusal = _refusal(answer)
        if refusal is not None:
            raise refusal

    async def release(self, order_id: UUID) -> None:
        """Give back what the order had reserved, once."""
        args = (str(order_id), REMEMBER_MS)
        await self._believed(lambda: self._run("release_reservation", self._keys(order_id), args))

    async def confirm(self, receipt: Receipt) -> None:
        """Turn the reservation into a sale. If the gate cannot be told, it becomes suspect."""
        await self._tell("confirm_sale", receipt, [receipt.sequence])

    def confirm_soon(self, receipt: Receipt) -> None:
        """The same, sent behind all that went before and not waited for."""
        script = load_script("labshop.storage", "confirm_sale")
        args: list[Part] = [str(receipt.order_id), receipt.user_id, REMEMBER_MS, receipt.sequence]
        told = self._node.post(script, self._keys(receipt.order_id), [*args, *_flat(receipt.lines)])
        told.add_done_callback(self._look_at_answer)

    def _look_at_answer(self, told: "asyncio.Future[Reply]") -> None:
        # A gate that is being built has perhaps read the ledger before this sale.
        if told.cancelled() or told.exception() is not None or told.result() == "cold":
            self.suspect = True

    async def sign_out(self, token_id: str, ends_at: datetime) -> None:
        """Refuse a token from here on; the ledger knows already that it was taken back.

        Raises:
            Unavailable: the gate cannot be reached; it is built anew from the ledger.
        """
        try:
            await self._run("revoke_token", (self._revoked,), (token_id, _ms(ends_at)))
        except BaseException:
            self.suspect = True
            raise

    async def put_back(self, receipt: Receipt, sequence: int) -> None:
        """Put a cancelled order's units back on sale.

        Args:
            receipt: the cancelled order.
            sequence: the ledger's number of the cancellation.
        """
        await self._tell("return_units", receipt, [sequence, receipt.sequence])

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
        ids = await self._believed(lambda: self._run("list_abandoned", (self._held,), args))
        return [UUID(order_id) for order_id in ids]

    async def heat(self) -> None:
        """Build the gate from the ledger if there is none.

        Raises:
            Unavailable: the gate or the ledger cannot be reached.
        """
        deadline_ms = self._clock.now_ms() + HEAT_WAIT_MS
        while self._clock.now_ms() < deadline_ms:
            if await self._ask("HEXISTS", self._gate, "epoch") or await self._build():
                return
            # Somebody else is reading the ledger for it.
            await self._clock.sleep_ms(HEAT_PAUSE_MS)
        raise Unavailable("gate", "it could not be built in time")

    async def rebuild(self) -> None:
        """Drop the gate and build it anew; safe at any moment of a sale.

        Raises:
            Unavailable: the gate or the ledger cannot be reached; the gate stays suspect.
        """
        # Cleared first: what cannot be told to the gate from here on makes it suspect anew.
        self.suspect = False
        try:
            # A builder at work has read the ledger already; without its ticket it reads again.
            await self._ask("DEL", self._gate, self._ticket)
            await self.heat()
        except BaseException:
            self.suspect = True
            raise

    async def _count(self, product_id: int) -> tuple[int, int]:
        """Units left and held; a gate that is not there is built first."""
        fields = ("epoch", f"left:{product_id}", f"held:{product_id}")
        for _ in range(HEAT_TRIES):
            epoch, left, held = await self._believed(
                lambda: self._ask("HMGET", self._gate, *fields)
            )
            if epoch is not None and left is None:
                raise NoSuchProduct(product_id)
            if epoch is not None:
                return int(left), int(held or 0)
            await self.heat()
        raise Unavailable("gate", "it is emptied faster than it is built")

    async def _build(self) -> bool:
        ticket = secrets.token_hex(8)
        try:
            if not await self._ask("SET", self._ticket, ticket, "NX", "PX", TICKET_MS):
                return False
            return await self._install(ticket, await self._snapshot())
        except BaseException:
            # The ticket may have been taken, also where the reply was lost; nobody waits for it.
            hand_in = load_script("labshop.locks", "release_lock")
            self._node.post(hand_in, (self._ticket,), (ticket,))
            raise

    async def _install(self, ticket: str, snapshot: Snapshot) -> bool:
        sale = snapshot.sale
        args: list[Part] = [ticket, snapshot.sequence]
        args += [_ms(sale.opens_at), _ms(sale.closes_at)]
        args += [sale.limit_per_user, await self._run_id(), len(snapshot.left)]
        args += [len(snapshot.bought)]
        args += [part for pair in snapshot.left.items() for part in pair]
        args += [part for pair in snapshot.bought.items() for part in pair]
        args += [part for token, end in snapshot.revoked.items() for part in (_ms(end), token)]
        keys = (self._gate, self._bought, self._held, self._ticket, self._revoked)
        return bool(await self._run("heat_gate", keys, args) == 1)

    async def _tell(self, script: str, receipt: Receipt, sequences: Sequence[int]) -> None:
        args: list[Part] = [str(receipt.order_id), receipt.user_id, REMEMBER_MS, *sequences]
        try:
            await self._settle(script, receipt.order_id, [*args, *_flat(receipt.lines)])
        except Refused:
            # The ledger's word stands. The gate is built anew from it as soon as it can be.
            self.suspect = True
        except BaseException:
            self.suspect = True
            raise

    async def _settle(
        self, script: str, order_id: UUID, args: Sequence[Part], *more_keys: str
    ) -> Sequence[str]:
        """Run a script on an order; where it finds no gate, build one and run it again."""
        keys = (*self._keys(order_id), *more_keys)
        for _ in range(HEAT_TRIES):
            answer = await self._believed(lambda: self._run(script, keys, args))
            if answer not in ("cold", ["cold"]):
                return answer if isinstance(answer, list) else [answer]
            await self.heat()
        raise Unavailable("gate", "it is emptied faster than it is built")

    async def _believed(self, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """An answer over a connection to the memory in which this gate was built.

        What is asked may be carried out twice: before the gate was found to be old, and after.
        """
        for _ in range(HEAT_TRIES):
            await self._compare_memory()
            answer = await ask()
            if self._believed_connection == self._node.connections:
                return answer
        raise Unavailable("gate", "its connection breaks again and again")

    async def _compare_memory(self) -> None:
        if self._believed_connection == self._node.connections:
            return
        async with self._comparing:
            connection = self._node.connections
            if self._believed_connection == connection:
                return
            built_in = await self._ask("HGET", self._gate, "run_id")
            if built_in not in (None, await self._run_id()):
                await self.rebuild()
            if self._node.connections == connection:
                self._believed_connection = connection

    async def _run_id(self) -> str:
        """Which run of the server answers: an id that is new at each of its starts."""
        server = await self._ask("INFO", "server")
        lines = (line.split(":", 1) for line in server.splitlines() if ":" in line)
        return str(dict(lines)["run_id"])

    async def _run(self, script: str, keys: Sequence[str], args: Sequence[Part]) -> Reply:
        try:
            return await self._node.run(load_script("labshop.storage", script), keys, args)
        except NodeError as error:
            # Nothing is in the ledger yet, or it is there already: for the buyer this is
            # definite. What the gate made of it is found out by the order's id.
            raise Unavailable("gate", error.reason) from error

    async def _ask(self, *parts: Part) -> Reply:
        try:
            return await self._node.command(*parts)
        except NodeError as error:
            raise Unavailable("gate", error.reason) from error

    def _keys(self, order_id: UUID) -> tuple[str, str, str, str]:
        return self._gate, self._bought, self._held, f"{self._tag}:order:{order_id}"


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000)


def _flat(lines: Sequence[Line]) -> list[Part]:
    return [part for line in lines for part in (line.product_id, line.quantity)]


def _refusal(answer: Sequence[str]) -> PurchaseError | None:  # noqa: PLR0911  # one a case
    match answer:
        case ["reserved"]:
            return None
        case ["sold_out", product_id, left]:
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
