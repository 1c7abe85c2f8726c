"""The ledger's tables.

`StockEvent` is append-only and the source of the rest: `Product.stock_left` is the sum of a
product's deltas, kept beside them so that one conditional UPDATE can guard it. Each event
carries the hash of its product's previous one, so that a changed row can be found.
Times are UTC. Money is in minor units.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel


def _moment(*, nullable: bool = False) -> Column[datetime]:
    return Column(DateTime(timezone=True), nullable=nullable)


class User(SQLModel, table=True):
    __tablename__ = "user_account"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True, max_length=64)
    password_hash: str
    role: str = "buyer"
    created_at: datetime = Field(sa_column=_moment())


class RevokedToken(SQLModel, table=True):
    __tablename__ = "revoked_token"

    token_id: str = Field(primary_key=True, max_length=64)
    expires_at: datetime = Field(sa_column=_moment())


class Product(SQLModel, table=True):
    __tablename__ = "product"
    __table_args__ = (CheckConstraint("stock_left >= 0", name="stock_is_never_negative"),)

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(max_length=100)
    price_minor: int
    stock_left: int
    newest_fence: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    newest_hash: str = Field(default="", max_length=64)
    """Of its newest event: where the chain goes on."""


class Bundle(SQLModel, table=True):
    __tablename__ = "bundle"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(max_length=100)


class BundleItem(SQLModel, table=True):
    __tablename__ = "bundle_item"

    bundle_id: int = Field(foreign_key="bundle.id", primary_key=True)
    product_id: int = Field(foreign_key="product.id", primary_key=True)
    quantity: int


class SaleWindow(SQLModel, table=True):
    __tablename__ = "sale"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(max_length=100)
    opens_at: datetime = Field(sa_column=_moment())
    closes_at: datetime = Field(sa_column=_moment())
    limit_per_user: int


class Purchase(SQLModel, table=True):
    __tablename__ = "purchase"
    __table_args__ = (
        UniqueConstraint("user_id", "idempotency_key"),
        Index("ix_purchase_bought", "user_id", "sale_id", "status", "units"),
    )

    id: UUID = Field(primary_key=True)
    user_id: int = Field(foreign_key="user_account.id")
    sale_id: int = Field(foreign_key="sale.id")
    status: str = "confirmed"
    units: int = 0
    """Of all lines together."""
    price_minor: int
    fence: int = Field(sa_column=Column(BigInteger, nullable=False))
    sequence: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    idempotency_key: str | None = Field(default=None, max_length=255)
    fingerprint: str
    created_at: datetime = Field(sa_column=_moment())


class PurchaseLine(SQLModel, table=True):
    __tablename__ = "purchase_line"

    purchase_id: UUID = Field(foreign_key="purchase.id", primary_key=True)
    product_id: int = Field(foreign_key="product.id", primary_key=True)
    quantity: int
    unit_price_minor: int


class FenceCounter(SQLModel, table=True):
    """One row: the newest fencing token that the ledger gave out."""

    __tablename__ = "fence_counter"

    id: int | None = Field(default=None, primary_key=True)
    newest: int = Field(sa_column=Column(BigInteger, nullable=False))


class StockEvent(SQLModel, table=True):
    __tablename__ = "stock_event"
    __table_args__ = (
        Index(
            "ix_stock_event_cancelled",
            "id",
            sqlite_where=text("reason = 'cancelled'"),
            postgresql_where=text("reason = 'cancelled'"),
        ),
    )

    id: int | None = Field(default=None, primary_key=True)
    product_id: int = Field(foreign_key="product.id", index=True)
    delta: int
    reason: str = Field(max_length=40)
    actor: str = Field(max_length=80)
    purchase_id: UUID | None = Field(default=None, foreign_key="purchase.id")
    created_at: datetime = Field(sa_column=_moment())
    previous_hash: str = Field(max_length=64)
    hash: str = Field(max_length=64)
