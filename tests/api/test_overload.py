"""Ten times too many, and one who asks ten times too often: refused at once, and told when to come.

What overload costs those who are served is measured by `labshop.load.overload_figures`.
"""

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

import pytest
import uvloop
from starlette.types import Message, Receive, Scope, Send

from labshop.api.admission import (
    HEARINGS_PER_S,
    HOLD_OFF,
    LATEST_S,
    SOONEST_S,
    Admission,
    Door,
    doors_of,
)
from labshop.api.server import listeners
from labshop.ops.metrics import Metrics
from labshop.resilience import Bulkhead
from labshop.settings import Settings
from labshop.shop.errors import Unavailable
from labshop.stack.nodes import ServerNode
from labshop.stack.ports import LOOPBACK
from labshop.storage.accounts import Account
from tests.api.conftest import ONE, Buyer, StartApi, open_door, problem
from tests.api.conftest import Door as OpenShop
from tests.api.process import Wire
from tests.conftest import connected, eventually
from tests.resilience.conftest import OwnedClock

STAGES = ("v1", "v2", "v3", "v4")
PLACES, BURST = 2, 3
OFTEN = {"user_rate_per_s": 0.01, "user_burst": BURST}


@pytest.fixture
async def small(valkey: ServerNode, settings: Settings) -> AsyncIterator[OpenShop]:
    """A shop with two places at each stage."""
    few = {"purchases_at_once": PLACES, "locked_purchases_at_once": PLACES}
    async with connected(valkey):
        pass
    async with open_door(settings.model_copy(update=few), valkey.url) as opened:
        yield opened


@pytest.fixture
async def strict(valkey: ServerNode, settings: Settings) -> AsyncIterator[OpenShop]:
    """A shop in which a user may buy three times, and then once in a hundred seconds."""
    async with connected(valkey):
        pass
    async with open_door(settings.model_copy(update=OFTEN), valkey.url) as opened:
        yield opened


@asynccontextmanager
async def full(shop: OpenShop, stage: str) -> AsyncIterator[None]:
    """All places of a stage are taken for the length of a body."""
    async with AsyncExitStack() as places:
        for _ in range(PLACES):
            await places.enter_async_context(shop.shop.strategies[stage].bulkhead)
        yield


def metric(shop: OpenShop, series: str) -> float:
    """The value of a series."""
    found = re.search(
        rf"^{re.escape(series)} (\S+)$", shop.shop.metrics.render().decode(), re.MULTILINE
    )
    assert found is not None, series
    return float(found[1])


@pytest.mark.parametrize("stage", STAGES)
async def test_a_full_stage_refuses_before_it_looks(small: OpenShop, stage: str) -> None:
    """No token and no body: while it is full that is a 503, and otherwise, the control, a 401.

    The other stages, and all other routes, are open meanwhile.
    """
    nobody, path = await small.client(), f"/{stage}/purchases"
    other = STAGES[STAGES.index(stage) - 1]
    assert problem(await nobody.post(path, content=b"{")) == (401, "Not signed in")

    async with full(small, stage):
        refused = await nobody.post(path, content=b"{")
        elsewhere = await nobody.post(f"/{other}/purchases", content=b"{")
        assert (await nobody.get("/products")).status_code == 200

    assert problem(refused) == (503, "Overloaded")
    assert refused.headers["retry-after"] == "1"
    assert problem(elsewhere) == (401, "Not signed in")
    assert problem(await nobody.post(path, content=b"{")) == (401, "Not signed in")
    assert metric(small, f'labshop_turned_away_total{{reason="full",stage="{stage}"}}') == 1


@pytest.mark.parametrize("counts", [True, False])
async def test_on_the_ordinary_route_a_purchase_is_counted_from_its_body_on(
    small: OpenShop, monkeypatch: pytest.MonkeyPatch, *, counts: bool
) -> None:
    """Two are still having their accounts looked up, none is at the strategy: the stage is full.

    In the control the door does not count, and everybody comes as far as these two.
    """
    if not counts:
        monkeypatch.setattr(Door, "__enter__", lambda _door: None)
        monkeypatch.setattr(Door, "__exit__", lambda *_: None)
    ada, may_look, looking = await small.buyer("ada"), asyncio.Event(), 0
    holder_of = small.shop.accounts.holder_of

    async def look_slowly(user_id: int, token_id: str) -> Account | None:
        nonlocal looking
        looking += 1
        await may_look.wait()
        return await holder_of(user_id, token_id)

    async def have_come() -> bool:
        return looking + sum(purchase.done() for purchase in purchases) == len(purchases)

    monkeypatch.setattr(small.shop.accounts, "holder_of", look_slowly)
    purchases = [asyncio.create_task(ada.buy()) for _ in range(PLACES)]
    await eventually(have_come)
    purchases += [asyncio.create_task(ada.buy()) for _ in range(3)]
    await eventually(have_come)

    assert looking == (PLACES if counts else PLACES + 3)
    may_look.set()
    answers = await asyncio.gather(*purchases)
    if counts:
        told = [answer.status_code for answer in answers]
        assert told == [201] * PLACES + [503] * 3


@pytest.mark.parametrize(
    "ways", [("/v4/purchases",), ("/v4/purchases?unusual",), ("/v1/purchases", "/v4/purchases")]
)
async def test_one_user_is_one_user_whichever_way_it_comes(
    strict: OpenShop, ways: tuple[str, ...]
) -> None:
    """The fourth purchase in a row is a 429 that nobody asked the gate about; others may buy."""
    ada, bob = await strict.buyer("ada"), await strict.buyer("bob")
    for number in range(BURST):
        answer = await ada.http.post(ways[number % len(ways)], json=ONE)
        assert answer.status_code == 201

    for way in ways:
        refused = await ada.http.post(way, json=ONE)
        assert problem(refused) == (429, "Too many tries")
        assert 90 <= int(refused.headers["retry-after"]) <= 100

    assert (await bob.http.post(ways[0], json=ONE)).status_code == 201
    assert await strict.books() == (96, 96, 4)
    assert metric(strict, 'labshop_turned_away_total{reason="rate",stage="v4"}') >= 1


async def test_control_a_person_is_not_too_often(door: OpenShop, buyer: Buyer) -> None:
    """With a rate that allows it, ten purchases in a row are ten orders."""
    answers = [await buyer.http.post("/v4/purchases", json=ONE) for _ in range(10)]

    assert {answer.status_code for answer in answers} == {201}
    assert await door.books() == (90, 90, 10)


async def test_what_keeps_the_shop_alive_can_be_seen(
    door: OpenShop, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All series are there before anything happens; an open breaker is seen, and refuses."""
    opened, state = "labshop_breaker_opened_total", "labshop_breaker_state"
    for name in ("gate", "ledger", "lock", "quorum"):
        assert metric(door, f'{opened}{{breaker="{name}"}}') == 0
        assert metric(door, f'labshop_breaker_refused_total{{breaker="{name}"}}') == 0
        assert metric(door, f'labshop_retries_total{{breaker="{name}"}}') == 0
        assert metric(door, f'{state}{{breaker="{name}",state="closed"}}') == 1
    for stage in STAGES:
        assert metric(door, f'labshop_bulkhead_refused_total{{stage="{stage}"}}') == 0
        assert metric(door, f'labshop_bulkhead_purchases{{stage="{stage}",where="inside"}}') == 0

    async def away(*_order: Any, **_fence: Any) -> None:
        raise Unavailable("ledger", "the test says so")

    monkeypatch.setattr(door.shop.ledger, "record", away)
    answers = [await buyer.http.post("/v4/purchases", json=ONE) for _ in range(3)]

    assert problem(answers[0]) == (503, "Unavailable")
    assert problem(answers[-1]) == (503, "Overloaded")
    assert answers[-1].headers["retry-after"] == "1"
    assert metric(door, f'{opened}{{breaker="ledger"}}') == 1
    assert metric(door, f'{state}{{breaker="ledger",state="open"}}') == 1
    assert metric(door, 'labshop_retries_total{breaker="ledger"}') >= 2
    shown = (await buyer.http.get("/readyz")).json()["breakers"]
    assert shown == {"gate": "closed", "ledger": "open", "lock": "closed", "quorum": "closed"}


async def told(count: int, clock: OwnedClock) -> list[tuple[float, int]]:
    """How long so many who come at once are held off, and what they are told, in seconds."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        pytest.fail("the body was asked for")

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        pytest.fail("it was let in")

    bulkhead, answers = Bulkhead("shop", limit=1), []
    admission = Admission(
        app, doors=doors_of({"v4": bulkhead}), metrics=Metrics(("v4",)), clock=clock
    )
    async with bulkhead:
        for _ in range(count):
            scope: Scope = {"type": "http", "method": "POST", "path": "/v4/purchases"}
            await admission(scope, receive, send)
            start, _body = sent[-2:]
            headers = dict(start["headers"])
            answers.append((scope["state"][HOLD_OFF], int(headers[b"retry-after"])))
    return answers


async def test_the_more_are_refused_the_later_they_are_told_to_come() -> None:
    """No more than so many may come in any second; and nobody is told more than four seconds."""
    answers = await told(HEARINGS_PER_S * LATEST_S, OwnedClock())

    holds_s = [hold_s for hold_s, _ in answers]
    assert holds_s[0] == SOONEST_S
    assert holds_s == sorted(holds_s)
    assert holds_s[-1] == LATEST_S
    assert holds_s.index(2) == HEARINGS_PER_S
    assert all(hold_s <= seconds < hold_s + 1 for hold_s, seconds in answers)


async def status(wire: Wire) -> int:
    """The status of the next answer, whose body is a flat object."""
    head = await wire.until(b"\r\n\r\n")
    await wire.until(b"}")
    return int(head.split()[1])


async def test_who_comes_at_once_is_not_listened_to(
    start_api: StartApi, valkey: ServerNode
) -> None:
    """A refused connection's next request waits until its second is over.

    The control is another connection, which asks later and is answered meanwhile.
    """
    api = await start_api(purchases_at_once=1, node_timeout_ms=60_000)
    body = json.dumps(ONE)
    request = (
        f"POST /v4/purchases HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {api.token(1)}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()

    async def is_full() -> bool:
        async with api.client() as client:
            shown = (await client.get("/metrics")).text
        return 'labshop_bulkhead_purchases{stage="v4",where="inside"} 1.0' in shown

    valkey.freeze()
    try:
        async with api.connect() as inside, api.connect() as refused, api.connect() as other:
            await inside.send(request)
            await eventually(is_full)
            await refused.send(request)
            assert await status(refused) == 503
            since_s = time.monotonic()
            await refused.send(request)
            again = asyncio.create_task(status(refused))
            await other.send(request)
            assert await status(other) == 503
            assert not again.done()
            assert await again == 503
            assert time.monotonic() - since_s > 0.9
    finally:
        valkey.thaw()


def turns_until_all_are_in(make: Callable[[socket.socket], list[socket.socket]]) -> int:
    """In how many turns of uvloop's loop a hundred who wait outside are let in."""
    let_in: list[int] = []
    turn = 0

    class Doorman(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            let_in.append(turn)
            transport.abort()  # type: ignore[attr-defined]  # that of a TCP connection has it

    async def open_doors() -> None:
        nonlocal turn
        loop = asyncio.get_running_loop()
        with socket.create_server((LOOPBACK, 0), backlog=256) as listener, ExitStack() as outside:
            address = listener.getsockname()
            for _ in range(100):
                outside.enter_context(socket.create_connection(address))
            servers = [await loop.create_server(Doorman, sock=it) for it in make(listener)]
            while len(let_in) < 100:
                turn += 1
                await asyncio.sleep(0)
            for server in servers:
                server.close()

    uvloop.run(open_doors())
    return len(set(let_in))


def test_a_crowd_comes_in_within_a_few_turns_of_the_loop() -> None:
    """A turn is long under load: whoever is outside cannot even be refused.

    In the control, which listens once as uvicorn does, each turn lets a few in.
    """
    assert turns_until_all_are_in(listeners) <= 5
    assert turns_until_all_are_in(lambda listener: [listener]) > 20
