"""Buying, looking at what was bought, and cancelling it."""

from collections.abc import Awaitable, Callable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response

from labshop.api.deps import BuyerDep, ShopDep
from labshop.api.desk import Desk
from labshop.api.errors import NoSuchBundle
from labshop.api.schemas import BundleIn, OrderOut, Page, PurchaseIn
from labshop.api.shop import Shop
from labshop.shop.domain import Line, Order
from labshop.shop.errors import BadOrder, NoSuchOrder
from labshop.shop.events import Event

router = APIRouter(tags=["orders"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="Your own name for this request: sent twice, it is booked once.",
        examples=["7f9c2ba4-e88f-4279"],
    ),
]


def purchase_route(stage: str) -> APIRouter:
    """The route under which a stage sells."""
    stage_router = APIRouter(tags=["purchases"])
    stage_router.add_api_route(
        f"/{stage}/purchases",
        _buyer(stage),
        methods=["POST"],
        status_code=201,
        name=f"buy_{stage}",
        summary=f"Buy by stage {stage}",
        responses={401: {}, 404: {}, 409: {}, 429: {}, 503: {}},
    )
    return stage_router


def _buyer(stage: str) -> Callable[..., Awaitable[OrderOut]]:
    async def buy(
        body: PurchaseIn,
        buyer: BuyerDep,
        shop: ShopDep,
        request: Request,
        response: Response,
        idempotency_key: IdempotencyKey = None,
    ) -> OrderOut:
        """Buy. The answer comes after the order is on disk."""
        desk: Desk = request.app.state.desk
        if len(request.headers.getlist("Idempotency-Key")) > 1:
            raise BadOrder("A request has one Idempotency-Key at most.")
        lines = await _lines(body, shop)
        order = Order.place(buyer.id, lines, idempotency_key=idempotency_key)
        receipt, replayed = await desk.buy(stage, order)
        if replayed:
            response.headers["Idempotent-Replayed"] = "true"
        return OrderOut.of(receipt)

    return buy


async def _lines(body: PurchaseIn, shop: Shop) -> list[Line]:
    if not isinstance(body, BundleIn):
        return [Line(line.product_id, line.quantity) for line in body.lines]
    for bundle in await shop.catalog.bundles():
        if bundle.id == body.bundle_id:
            return list(bundle.lines)
    raise NoSuchBundle(body.bundle_id)


@router.get("/orders", responses={401: {}, 503: {}})
async def list_orders(
    buyer: BuyerDep, shop: ShopDep, page: Annotated[Page, Query()]
) -> list[OrderOut]:
    """Your orders, newest first."""
    receipts = await shop.ledger.orders_of(buyer.id, limit=page.limit, offset=page.offset)
    return [OrderOut.of(receipt) for receipt in receipts]


@router.get("/orders/{order_id}", responses={401: {}, 404: {}, 503: {}})
async def get_order(order_id: UUID, buyer: BuyerDep, shop: ShopDep) -> OrderOut:
    """One of your orders; the way to find out what became of an unknown outcome."""
    receipt = await shop.ledger.find(order_id)
    if receipt is None or receipt.user_id != buyer.id:
        raise NoSuchOrder(order_id)
    return OrderOut.of(receipt)


@router.delete("/orders/{order_id}", responses={401: {}, 404: {}, 503: {}})
async def cancel_order(order_id: UUID, buyer: BuyerDep, shop: ShopDep) -> OrderOut:
    """Cancel one of your orders; its units go back on sale once, however often you ask."""
    receipt, sequence = await shop.ledger.cancel(
        order_id, user_id=buyer.id, actor=f"user:{buyer.id}"
    )
    if sequence:
        await shop.inventory.put_back(receipt, sequence)
        shop.events.publish(Event("cancellation", {"order_id": str(order_id)}))
    return OrderOut.of(receipt)
