"""What is for sale: products, bundles, and the sale's window."""

from dataclasses import dataclass
from datetime import UTC

from sqlmodel import Session, col, select

from labshop.shop.domain import Line, Sale
from labshop.storage.database import Database
from labshop.storage.tables import Bundle, BundleItem, Product, SaleWindow


@dataclass(frozen=True)
class ProductOffer:
    """A product, its unit price in minor units, and the units left by the ledger."""

    id: int
    name: str
    price_minor: int
    stock_left: int


@dataclass(frozen=True)
class BundleOffer:
    """Several products sold together."""

    id: int
    name: str
    lines: tuple[Line, ...]


class Catalog:
    """Reads of the catalogue. Each raises `Unavailable` when the ledger cannot be asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def products(self, *, limit: int, offset: int) -> list[ProductOffer]:
        """So many products by id, behind so many others."""
        return await self._database.read(lambda session: _products(session, limit, offset))

    async def product(self, product_id: int) -> ProductOffer | None:
        """One product, or None."""
        return await self._database.read(lambda session: _product(session.get(Product, product_id)))

    async def bundles(self) -> list[BundleOffer]:
        """All bundles by id."""
        return await self._database.read(_bundles)


def read_sale(session: Session) -> Sale:
    """The one sale of this shop."""
    window = session.exec(select(SaleWindow).order_by(col(SaleWindow.id))).first()
    assert window is not None, "the shop is seeded with a sale"
    assert window.id is not None
    return Sale(
        id=window.id,
        name=window.name,
        # SQLite gives times back without their zone.
        opens_at=window.opens_at.replace(tzinfo=UTC),
        closes_at=window.closes_at.replace(tzinfo=UTC),
        limit_per_user=window.limit_per_user,
    )


def _products(session: Session, limit: int, offset: int) -> list[ProductOffer]:
    page = select(Product).order_by(col(Product.id)).limit(limit).offset(offset)
    rows = session.exec(page).all()
    return [offer for row in rows if (offer := _product(row)) is not None]


def _product(row: Product | None) -> ProductOffer | None:
    if row is None or row.id is None:
        return None
    return ProductOffer(row.id, row.name, row.price_minor, row.stock_left)


def _bundles(session: Session) -> list[BundleOffer]:
    items = session.exec(
        select(BundleItem).order_by(col(BundleItem.bundle_id), col(BundleItem.product_id))
    ).all()
    return [
        BundleOffer(
            bundle.id,
            bundle.name,
            tuple(Line(i.product_id, i.quantity) for i in items if i.bundle_id == bundle.id),
        )
        for bundle in session.exec(select(Bundle).order_by(col(Bundle.id)))
        if bundle.id is not None
    ]
