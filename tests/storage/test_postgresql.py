"""What PostgreSQL does otherwise than SQLite: sequences, zones, limits, servers set up oddly."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import Session

from labshop.api.shop import Shop
from labshop.shop.domain import Line, Order, Receipt
from labshop.shop.errors import Unavailable
from labshop.stack.postgres import PostgresServer
from labshop.storage import seed as seeding
from labshop.storage.catalog import Catalog
from labshop.storage.database import Database
from tests.conftest import on_postgresql, users
from tests.ledgers import TEMPLATE, new_database, other_program, stock

PRODUCT = 1


def order_of(user_id: int, quantity: int = 2, key: str | None = None) -> Order:
    return Order.place(user_id, [Line(PRODUCT, quantity)], idempotency_key=key)


async def left(shop: Shop) -> int:
    return (await shop.ledger.snapshot()).left[PRODUCT]


def test_a_seeding_that_was_broken_off_is_done_again(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sequence does not go back; the next seeding has the numbers that its bundles name."""
    url = new_database(postgres, template="template1")
    database = Database(url, timeout_ms=5_000)
    database.migrate()

    def die(*_args: Any) -> None:
        raise ConnectionAbortedError

    with monkeypatch.context() as patch:
        patch.setattr(seeding, "append_event", die)
        with pytest.raises(ConnectionAbortedError):
            seeding.seed(database, admin_password_hash="!")
    seeding.seed(database, admin_password_hash="!")

    with other_program(url) as program:
        assert program.rows("SELECT id FROM product ORDER BY id") == [(n,) for n in range(1, 11)]
    database.close()


async def test_two_processes_migrate_at_once(postgres: PostgresServer) -> None:
    """Five processes open a new shop at the same moment: it is made once."""
    url = new_database(postgres, template="template1")

    await asyncio.gather(*(asyncio.to_thread(stock, url) for _ in range(5)))

    with other_program(url) as program:
        assert program.rows("SELECT count(*), sum(stock_left) FROM product") == [(10, 1_000)]
        assert program.rows("SELECT count(*) FROM user_account") == [(1,)]


@on_postgresql
async def test_what_cannot_be_stored_is_nobody_elses_fault(shop: Shop) -> None:
    """An order whose key PostgreSQL refuses is refused alone; its neighbours are booked."""
    ids = await users(shop, 4)
    keys = ("fine", "\x00", "k" * 300, None)

    outcomes = await asyncio.gather(
        *(
            shop.ledger.record(order_of(user_id, 1, key), fence=0)
            for user_id, key in zip(ids, keys, strict=True)
        ),
        shop.accounts.create("n" * 65, "!"),
        return_exceptions=True,
    )

    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Receipt, Unavailable, Unavailable, Receipt, Unavailable]
    assert await left(shop) == 98


@on_postgresql
async def test_a_moment_is_the_same_in_every_zone(shop: Shop) -> None:
    """On a server in Nepal, an order and the sale's window have the times that they were given."""
    [user_id] = await users(shop, 1)
    receipt = await shop.ledger.record(order_of(user_id), fence=0)

    assert await shop.ledger.find(receipt.order_id) == receipt
    sale = (await shop.ledger.snapshot()).sale
    assert sale.opens_at.isoformat() == "2026-01-01T00:00:00+00:00"
    with other_program(shop.settings.ledger_url()) as program:
        assert program.rows("SHOW timezone") == [("Asia/Kathmandu",)]


@on_postgresql
async def test_a_reading_cannot_write(shop: Shop) -> None:
    """A statement that writes is refused in a reading transaction."""

    def write(session: Session) -> None:
        session.execute(text("UPDATE product SET stock_left = 0"))

    with pytest.raises(Unavailable, match="read-only"):
        await shop.database.read(write)
    assert await left(shop) == 100


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
async def test_any_usual_scheme_names_it(postgres: PostgresServer, scheme: str) -> None:
    """The URL may be written as libpq, as a cloud provider, or as SQLAlchemy writes it."""
    url = postgres.url(TEMPLATE).replace("postgresql:", f"{scheme}:")
    database = Database(url, timeout_ms=5_000)

    assert len(await Catalog(database).products(limit=10, offset=0)) == 10
    database.close()
