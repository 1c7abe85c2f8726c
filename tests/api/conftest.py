"""What the tests of the API share: applications in this process, buyers, a server process."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from labshop.api.app import create_app
from labshop.api.shop import Shop
from labshop.settings import Settings
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from tests.api.process import ApiProcess
from tests.conftest import SECRET, connected, eventually

PRODUCT = 1
ONE = {"lines": [{"product_id": PRODUCT, "quantity": 1}]}


@dataclass(frozen=True)
class Buyer:
    """A user and their connection, which carries their token."""

    id: int
    http: httpx.AsyncClient

    async def buy(self, body: Any = ONE, *, key: str | None = None) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.http.post("/v1/purchases", json=body, headers=headers)


class Door:
    """An application in this process, and everybody's connections to it."""

    def __init__(self, app: FastAPI, connections: AsyncExitStack) -> None:
        self.app = app
        self.shop: Shop = app.state.shop
        self._connections = connections

    async def client(self, token: str | None = None) -> httpx.AsyncClient:
        """A connection; a defect of the shop is raised in the test that meets it."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://shop", headers=headers
        )
        return await self._connections.enter_async_context(client)

    async def buyer(self, name: str) -> Buyer:
        """A new user with a token."""
        account = await self.shop.accounts.create(name, "!")
        return await self.returning(account.id)

    async def returning(self, user_id: int) -> Buyer:
        """A user of this ledger with a new token."""
        return Buyer(user_id, await self.client(self.shop.tokens.issue(user_id)))

    async def books(self) -> tuple[int, int, int]:
        """Units of the product at the gate, in the ledger, and units sold by orders."""
        snapshot = await self.shop.ledger.snapshot()
        left = await self.shop.inventory.left(PRODUCT)
        return left, snapshot.left[PRODUCT], sum(snapshot.bought.values())


@asynccontextmanager
async def open_door(
    settings: Settings, gate_url: str, *, stocked: bool = True
) -> AsyncIterator[Door]:
    """An application at work, by default once it can sell."""
    app = create_app(settings, gate_url=gate_url)
    async with app.router.lifespan_context(app), AsyncExitStack() as connections:
        door = Door(app, connections)
        if stocked:
            await eventually(lambda: _sells(door.shop))
        yield door


@pytest.fixture
async def door(valkey: ServerNode, settings: Settings) -> AsyncIterator[Door]:
    """A shop with an empty gate and a new ledger."""
    async with connected(valkey):
        pass
    async with open_door(settings, valkey.url) as opened:
        yield opened


@pytest.fixture
async def client(door: Door) -> httpx.AsyncClient:
    """A connection of nobody's."""
    return await door.client()


@pytest.fixture
async def buyer(door: Door) -> Buyer:
    return await door.buyer("ada")


@pytest.fixture
def frail(leash: Leash, tmp_path: Path) -> Iterator[ServerNode]:
    """A gate of this test's own, not started, to be killed and frozen."""
    node = ServerNode(NodeSpec("frail", "primary"), find_server(None), tmp_path / "frail", leash)
    yield node
    node.kill()


StartApi = Callable[..., Awaitable[ApiProcess]]


@pytest.fixture
async def start_api(leash: Leash, valkey: ServerNode, tmp_path: Path) -> AsyncIterator[StartApi]:
    """Start server processes, on an empty gate and with settings of their own."""
    started: list[ApiProcess] = []
    async with connected(valkey):
        pass

    async def start(**settings: Any) -> ApiProcess:
        process = ApiProcess(leash, tmp_path, gate_url=valkey.url, secret=SECRET, **settings)
        started.append(process)
        await eventually(process.sells)
        return process

    yield start
    for process in started:
        process.kill()


async def _sells(shop: Shop) -> bool:
    return shop.stocked and not shop.inventory.gate.suspect


def problem(answer: httpx.Response) -> tuple[int, str]:
    """Status and title of a problem document, whose form is checked."""
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert {"type", "title", "status", "detail"} <= set(body)
    assert body["status"] == answer.status_code
    return answer.status_code, body["title"]
