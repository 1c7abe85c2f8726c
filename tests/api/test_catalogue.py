"""The list of products, however many there are."""

import httpx2 as httpx
import pytest

from labshop.load.filled_ledger import add_products
from tests.api.conftest import Door

PRODUCTS = 250


async def page(client: httpx.AsyncClient, query: str) -> list[int]:
    """The ids of a page."""
    answer = await client.get(f"/products{query}")
    assert answer.status_code == 200
    return [product["id"] for product in answer.json()]


async def test_many_products_come_in_pages(door: Door, client: httpx.AsyncClient) -> None:
    """Pages follow each other without a gap or a repetition, end in an empty one, and are short."""
    add_products(door.shop.database, PRODUCTS, 1)

    assert await page(client, "") == list(range(1, 21))
    assert await page(client, "?limit=100&offset=100") == list(range(101, 201))
    assert await page(client, "?limit=100&offset=200") == list(range(201, 251))
    assert await page(client, f"?offset={PRODUCTS}") == []


@pytest.mark.parametrize("query", ["limit=101", "limit=0", "offset=-1", "limit=all", "page=2"])
async def test_a_page_that_is_none(client: httpx.AsyncClient, query: str) -> None:
    """Nobody gets more than a hundred products at once, nor a part that cannot be."""
    answer = await client.get(f"/products?{query}")

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
