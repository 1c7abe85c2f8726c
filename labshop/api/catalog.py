"""What is for sale, and how much of it is left."""

import math
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Field

from labshop.api.deps import ShopDep
from labshop.api.schemas import PLAIN, BundleOut, LineBody, Page, ProductOut, StockOut
from labshop.shop.errors import NoSuchProduct
from labshop.storage.catalog import ProductOffer

router = APIRouter(tags=["catalogue"])

ProductId = Annotated[int, Field(ge=1, le=2**31 - 1), PLAIN, Path()]


@router.get("/products", responses={503: {}})
async def list_products(shop: ShopDep, page: Annotated[Page, Query()]) -> list[ProductOut]:
    """Products by their ids, a page at a time."""
    offers = await shop.catalog.products(limit=page.limit, offset=page.offset)
    return [_out(offer) for offer in offers]


@router.get("/products/{product_id}", responses={404: {}, 503: {}})
async def get_product(product_id: ProductId, shop: ShopDep) -> ProductOut:
    """One product."""
    offer = await shop.catalog.product(product_id)
    if offer is None:
        raise NoSuchProduct(product_id)
    return _out(offer)


@router.get("/products/{product_id}/stock", responses={404: {}, 503: {}})
async def get_stock(product_id: ProductId, shop: ShopDep) -> StockOut:
    """Units left, to look at: the answer says of when. Whether you may buy, the gate says."""
    shown = await shop.stock.look(product_id)
    return StockOut(
        product_id=product_id,
        left=shown.left,
        source=shown.source,
        age_ms=math.ceil(shop.stock.age_ms(shown)),
    )


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
