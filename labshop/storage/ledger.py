"""The ledger: orders, and the stock events from which the stock follows.

Every sale is one transaction: a conditional update per product (enough stock, and a fencing
token not older than the newest seen), the order, its lines, and one event per line. If any
of them refuses, none of them happened. No lost lock, no wiped Redis and no jumped clock
upstream can therefore sell a unit twice.

A receipt is given only after its transaction is on disk.
"""

from uuid import UUID

from labshop.shop.domain import Order, Receipt
from labshop.shop.errors import LimitReached, SoldOut, Unavailable, Unknown
from labshop.storage import changes
from labshop.storage.booking import Booking
from labshop.storage.database import Database
from labshop.storage.records import (
    Audit,
    Snapshot,
    find,
    find_by_key,
    read_audit,
    read_cancelled,
    read_orders,
    read_snapshot,
    read_sold,
)
from labshop.storage.writer import GroupWriter, OutcomeUnknown


class SqlLedger:
    """The ledger on an SQL database."""

    def __init__(self, database: Database, writer: GroupWriter) -> None:
        self._database = database
        self._writer = writer
        self.contradicted = False
        """True after it refused what the gate had let through: one of them is behind."""

    async def record(self, order: Order, *, fence: int) -> Receipt:
        """Book an order durably.

        Args:
            order: what is bought.
            fence: the fencing token of the lease under which it is bought; 0 for none.

        Raises:
            SoldOut, LimitReached, SaleClosed, NoSuchProduct, StaleFence, AlreadyBooked,
            KeyReused, Unavailable: nothing was booked.
            Unknown: nobody knows; ask `find`.
        """
        try:
            receipt: Receipt = await self._writer.submit(Booking(order, fence))
        except (SoldOut, LimitReached):
            self.contradicted = True
            raise
        except OutcomeUnknown as doubt:
            raise Unknown(order.id, str(doubt)) from doubt
        return receipt

    async def next_fence(self, key: str) -> int:
        """A fencing token for a lock on a key: greater than all that were given out before.

        Raises:
            Unavailable: none was given out that anybody knows of.
        """
        try:
            return await self._writer.submit(changes.next_fence)
        except OutcomeUnknown as doubt:
            raise Unavailable("ledger", str(doubt)) from doubt

    async def cancel(self, order_id: UUID, *, user_id: int, actor: str) -> tuple[Receipt, int]:
        """Cancel a user's order, and give its units back to the stock, once.

        Returns:
            The receipt, and the sequence of the returning events; 0 if it was cancelled before.

        Raises:
            NoSuchOrder: this user has none by that id.
            Unavailable: nothing was changed. Unknown: ask `find`.
        """
        try:
            return await self._writer.submit(
                lambda session: changes.cancel(session, order_id, user_id, actor)
            )
        except OutcomeUnknown as doubt:
            raise Unknown(order_id, str(doubt)) from doubt

    async def adjust(self, product_id: int, *, units: int, actor: str) -> None:
        """Set a product's stock; the gate has to be built anew afterwards.

        Raises:
            NoSuchProduct: there is none by that id.
            Unavailable: nothing was changed.
        """
        await self._writer.submit(lambda session: changes.adjust(session, product_id, units, actor))

    async def catch_up(self) -> None:
        """Wait until what this process had begun to write has come to its end.

        Raises:
            Unavailable: it has not, within the time that a transaction may take.
        """
        try:
            await self._writer.submit(lambda _session: None)
        except OutcomeUnknown as doubt:
            raise Unavailable("ledger", str(doubt)) from doubt

    async def find(self, order_id: UUID) -> Receipt | None:
        """The receipt of an order, or None if it was never booked.

        Raises:
            Unavailable: the ledger cannot be asked.
        """
        return await self._database.read(lambda session: find(session, order_id))

    async def find_by_key(self, user_id: int, key: str) -> Receipt | None:
        """The receipt of a user's idempotency key, or None."""
        return await self._database.read(lambda session: find_by_key(session, user_id, key))

    async def orders_of(self, user_id: int, *, limit: int, offset: int) -> list[Receipt]:
        """A user's orders, newest first."""
        return await self._database.read(
            lambda session: read_orders(session, user_id, limit, offset)
        )

    async def cancelled_since(self, sequence: int) -> list[tuple[Receipt, int]]:
        """Orders whose cancellation is newer than an event, each with its own sequence."""
        return await self._database.read(lambda session: read_cancelled(session, sequence))

    async def sequence(self) -> int:
        """The number of the newest stock event; it costs the same in any ledger."""
        return await self._database.read(changes.newest_event_id)

    async def sold(self, product_id: int) -> int:
        """Units of a product in orders that stand."""
        return await self._database.read(lambda session: read_sold(session, product_id))

    async def audit(self) -> Audit:
        """All orders and all stock, read in one transaction."""
        return await self._database.read(read_audit)

    async def snapshot(self) -> Snapshot:
        """What the ledger holds at this moment, read in one transaction."""
        return await self._database.read(read_snapshot)
