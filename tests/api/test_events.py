"""The stream of events: whoever listens hears what happens, and whoever does not costs nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from labshop.shop.events import QUEUE_LENGTH, Event, EventBus
from tests.api.conftest import ONE, PRODUCT, Buyer, StartApi, problem
from tests.api.process import ApiProcess

SALES = 70
LISTEN = b"GET /events HTTP/1.1\r\nHost: shop\r\n\r\n"


async def heard(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Kind and details of each event of a stream."""
    kind = ""
    async for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


async def buy(api: ApiProcess, name: str) -> dict[str, Any]:
    async with api.client(await api.sign_up(name)) as client:
        booked: dict[str, Any] = (await client.post("/v1/purchases", json=ONE)).json()
        await client.delete(f"/orders/{booked['order_id']}")
    return booked


async def test_a_listener_hears_a_purchase(start_api: StartApi) -> None:
    """A purchase is heard as the lock taken, the lock released, and the order, by its id."""
    api = await start_api()
    told: list[tuple[str, dict[str, Any]]] = []
    async with api.client() as client, client.stream("GET", "/events") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        order = await buy(api, "ada")
        async with asyncio.timeout(10):
            async for kind, details in heard(answer.aiter_lines()):
                told.append((kind, details))
                if kind == "cancellation":
                    break

    lock = {"key": f"product:{PRODUCT}", "fence": order["fence"]}
    order_id = order["order_id"]
    assert told == [
        ("lock", {"event": "acquired", **lock}),
        ("lock", {"event": "released", **lock}),
        ("purchase", {"stage": "v1", "order_id": order_id, "lines": {str(PRODUCT): 1}}),
        ("cancellation", {"order_id": order_id}),
    ]


async def test_listeners_who_do_not_read_stop_nobody(start_api: StartApi) -> None:
    """Twenty listeners who never read, and twenty who have gone, leave the shop selling."""
    api = await start_api()
    async with AsyncExitStack() as stack, api.client(await api.sign_up("ada")) as client:
        for _ in range(20):
            async with api.connect() as gone:
                await gone.send(LISTEN)
                await gone.until(b"\r\n\r\n")
            deaf = await stack.enter_async_context(api.connect())
            await deaf.send(LISTEN)
        for _ in range(SALES):
            answer = await client.post("/v1/purchases", json=ONE)
            assert answer.status_code == 201
            await client.delete(f"/orders/{answer.json()['order_id']}")

        assert (await client.get("/products/1/stock")).json()["left"] == 100


def test_a_queue_keeps_the_newest_and_never_waits() -> None:
    """A listener who falls behind loses the oldest events; one who left is not told any more."""
    bus = EventBus()
    with bus.listen() as queue:
        for number in range(QUEUE_LENGTH + 50):
            bus.publish(Event("lock", {"number": number}))
        assert queue.qsize() == QUEUE_LENGTH
        assert queue.get_nowait().details == {"number": 50}
    bus.publish(Event("lock", {"number": -1}))
    assert queue.qsize() == QUEUE_LENGTH - 1


async def test_events_are_got_and_nothing_else(buyer: Buyer) -> None:
    """Another method than GET is refused, and its body is not waited for."""
    answer = await buyer.http.post("/events", json=ONE)

    assert problem(answer) == (405, "Method Not Allowed")
    assert answer.headers["allow"] == "GET"
