"""The bodies that go in and out, with examples; `/docs` is drawn from them.

Numbers are strict: ``"5"``, ``5.0`` and ``true`` are not 5. Unknown fields are refused, so
that nobody sets a field that they only guessed.
"""

import re
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError, to_json

from labshop.resilience import BreakerState
from labshop.shop.domain import MAX_LINES, MAX_QUANTITY, Receipt

PLAIN_NUMBER = re.compile("0|[1-9][0-9]*")


def _plain(text: object) -> object:
    if isinstance(text, str) and not PLAIN_NUMBER.fullmatch(text):
        raise PydanticCustomError("plain_number", "not a number in digits alone")
    return text


# In a path or a query all is text, of which pydantic would take "5.0", "+5", "1_0" and " 5".
PLAIN = BeforeValidator(_plain)
Id = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@+-]{3,64}$", examples=["ada"])]
Password = Annotated[
    str,
    Field(
        # No control characters. Lone surrogates, which cannot be encoded, pydantic refuses.
        pattern=r"^[^\x00-\x1f\x7f]*$",
        min_length=8,
        max_length=128,
        examples=["correct horse battery staple"],
    ),
]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(Body):
    """Which part of a list."""

    limit: Annotated[int, Field(ge=1, le=100), PLAIN] = 20
    offset: Annotated[int, Field(ge=0, le=1_000_000), PLAIN] = 0


class Credentials(Body):
    name: Name
    password: Password


class UserOut(Body):
    id: int
    name: str
    role: str


class TokenOut(Body):
    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105  # the kind of token, not a token
    expires_in_s: int


class ProductOut(Body):
    id: int = Field(examples=[1])
    name: str = Field(examples=["Games console"])
    price_minor: int = Field(description="Unit price in cents.", examples=[44_900])
    stock_left: int = Field(description="Units left by the ledger.", examples=[100])


class StockOut(Body):
    product_id: int
    left: int = Field(description="Units that could be bought a moment ago.", examples=[42])
    source: Literal["gate", "replica", "ledger"] = Field(
        description="`ledger` while the gate cannot be reached: then reservations are not counted."
    )
    age_ms: int = Field(description="How old the number is at most.", examples=[40])


class LineBody(Body):
    product_id: Id
    quantity: Annotated[int, Field(strict=True, ge=1, le=MAX_QUANTITY)] = Field(examples=[1])


class BundleOut(Body):
    id: int
    name: str
    lines: list[LineBody]


class LinesIn(Body):
    """An order by its lines; lines of one product are summed."""

    lines: Annotated[list[LineBody], Field(min_length=1, max_length=MAX_LINES)] = Field(
        examples=[[{"product_id": 1, "quantity": 1}]]
    )


class BundleIn(Body):
    """An order of one bundle."""

    bundle_id: Id


PurchaseIn = LinesIn | BundleIn


class OrderOut(Body):
    order_id: UUID
    status: Literal["confirmed", "cancelled"]
    lines: list[LineBody]
    price_minor: int = Field(description="Total in cents.", examples=[44_900])
    fence: int = Field(description="Fencing token under which the ledger booked it.")
    created_at: datetime

    @classmethod
    def of(cls, receipt: Receipt) -> "OrderOut":
        # Not checked again: a receipt is ours.
        return cls.model_construct(
            order_id=receipt.order_id,
            status=receipt.status,
            lines=[
                LineBody.model_construct(product_id=x.product_id, quantity=x.quantity)
                for x in receipt.lines
            ],
            price_minor=receipt.price_minor,
            fence=receipt.fence,
            created_at=receipt.created_at,
        )

    @staticmethod
    def json_of(receipt: Receipt) -> bytes:
        """The same as JSON, at a quarter of the price: the model is not built."""
        return to_json(
            {
                "order_id": receipt.order_id,
                "status": receipt.status,
                "lines": [
                    {"product_id": line.product_id, "quantity": line.quantity}
                    for line in receipt.lines
                ],
                "price_minor": receipt.price_minor,
                "fence": receipt.fence,
                "created_at": receipt.created_at,
            }
        )


class HealthOut(Body):
    status: Literal["ok"] = "ok"


class ReadyOut(Body):
    status: Literal["ready"] = "ready"
    leader: bool = Field(description="Whether this process does what only one may do.")
    compared_ms_ago: int | None = Field(
        description="When this process has last compared gate and ledger; the leader does."
    )
    breakers: dict[str, BreakerState] = Field(
        description="What this process thinks of each thing that a purchase depends on.",
        examples=[{"gate": "closed", "ledger": "open"}],
    )


class Problem(BaseModel):
    """An error as RFC 9457 describes it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["/problems/sold-out"])
    title: str = Field(examples=["Sold out"])
    status: int = Field(examples=[409])
    detail: str = Field(examples=["Product 1 has 0 units left."])
