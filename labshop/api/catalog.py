"""What is for sale, and how much of it is left."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from labshop.api.deps import ShopDep
from labshop.api.schemas import PLAIN, BundleOut, LineBody, ProductOut, StockOut
from labshop.shop.errors import NoSuchProduct, Unavailable
from labshop.storage.catalog import ProductOffer

router = APIRouter(tags=["catalogue"])

ProductId = Annotated[int, Field(ge=1, le=2**31 - 1), PLAIN, Path()]


@router.get("/products", responses={503: {}})
async def list_products(shop: ShopDep) -> list[ProductOut]:
    """All products."""
    return [_out(offer) for offer in await shop.catalog.products()]


@router.get("/products/{product_id}", responses={404: {}, 503: {}})
async def get_product(product_id: ProductId, shop: ShopDep) -> ProductOut:
    """One product."""
    offer = await shop.catalog.product(product_id)
    if offer is None:
        raise NoSuchProduct(product_id)
    return _out(offer)


@router.get("/products/{product_id}/stock", responses={404: {}, 503: {}})
async def get_stock(product_id: ProductId, shop: ShopDep) -> StockOut:
    """Units left, as the gate sees it; as the ledger does while the gate is away."""
    try:
        left = await shop.inventory.left(product_id)
        return StockOut(product_id=product_id, left=left, source="gate")
    except Unavailable:
        offer = await shop.catalog.product(product_id)
        if offer is None:
            raise NoSuchProduct(product_id) from None
        return StockOut(product_id=product_id, left=offer.stock_left, source="ledger")


@router.get("/bundles", responses={503: {}})
async def list_bundles(shop: ShopDep) -> list[BundleOut]:
    """All bundles."""
    return [
        BundleOut(
            id=bundle.id,
            name=bundle.name,
            lines=[LineBody(product_id=x.product_id, quantity=x.quantity) for x in bundle.lines],
        )
        for bundle in await shop.catalog.bundles()
    ]


def _out(offer: ProductOffer) -> ProductOut:
    return ProductOut(
        id=offer.id, name=offer.name, price_minor=offer.price_minor, stock_left=offer.stock_left
    )
