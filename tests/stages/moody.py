"""A gate and a ledger that go wrong as a test says; behind them stand the real ones."""

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

from labshop.shop.domain import Order, Receipt
from labshop.stages.base import Inventory, Ledger

Mood = Exception | asyncio.Event
"""What befalls a call: an error instead of it, or an event that it waits for first."""


@dataclass
class MoodyGate:
    """`moods` befall the next reservations, one each; with `loses_replies`, after the fact."""

    inventory: Inventory
    moods: list[Mood] = field(default_factory=list)
    asked: list[UUID] = field(default_factory=list)
    loses_replies: bool = False

    async def reserve(self, order: Order) -> None:
        self.asked.append(order.id)
        if self.loses_replies:
            await self.inventory.reserve(order)
        await suffer(self.moods)
        await self.inventory.reserve(order)

    async def release(self, order_id: UUID) -> None:
        await self.inventory.release(order_id)

    async def confirm(self, receipt: Receipt) -> None:
        await self.inventory.confirm(receipt)

    def confirm_soon(self, receipt: Receipt) -> None:
        self.inventory.confirm_soon(receipt)


@dataclass
class MoodyLedger:
    """`moods` befall the next orders, one each."""

    ledger: Ledger
    moods: list[Mood] = field(default_factory=list)
    asked: list[UUID] = field(default_factory=list)

    async def record(self, order: Order, *, fence: int) -> Receipt:
        self.asked.append(order.id)
        await suffer(self.moods)
        return await self.ledger.record(order, fence=fence)


async def suffer(moods: list[Mood]) -> None:
    mood = moods.pop(0) if moods else None
    if isinstance(mood, Exception):
        raise mood
    if mood is not None:
        await mood.wait()
