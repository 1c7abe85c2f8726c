"""How large, how slow and how ambiguous a request may be; against a server process."""

import asyncio
import json
import signal
import time
from contextlib import AsyncExitStack
from typing import Any

import httpx2 as httpx
import pytest
from sqlalchemy import text

from labshop.settings import Settings
from labshop.stack.nodes import ServerNode
from tests.api.conftest import ONE, PRODUCT, Buyer, Door, StartApi, open_door, problem
from tests.api.process import Wire
from tests.conftest import connected, eventually

LIMIT_BYTES = Settings().body_limit_bytes
RECEIVE_MS = 400
HEAD = b"POST /auth/login HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
GET = b"GET /null HTTP/1.1\r\nHost: shop\r\n\r\n"
DRIP_S = RECEIVE_MS / 1_000 / 10
FLOOD_BYTES = 64_000_000


async def drip(wire: Wire, drop: bytes) -> None:
    """Send a drop again and again, far more often than the deadline, until it is closed."""
    while True:
        await wire.send(drop)
        await asyncio.sleep(DRIP_S)


async def answer_while_dripping(wire: Wire, drop: bytes) -> bytes:
    """What the server says until it closes a connection on which drops keep coming."""
    dripping = asyncio.create_task(drip(wire, drop))
    try:
        return await wire.until_closed()
    finally:
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)


async def in_chunks(size: int) -> Any:
    for _ in range(size // 1_024):
        yield b" " * 1_024


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large(buyer: Buyer, door: Door, chunked: bool) -> None:
    """A body of more than the limit is refused, whether or not it says its length."""
    size = LIMIT_BYTES + 1_024
    answer = await buyer.http.post(
        "/v1/purchases", content=in_chunks(size) if chunked else b" " * size
    )

    assert problem(answer) == (413, "Content Too Large")
    assert str(LIMIT_BYTES) in answer.json()["detail"]
    assert "retry-after" not in answer.headers  # it would be too large again
    assert await door.books() == (100, 100, 0)


async def test_control_a_body_of_just_the_limit(buyer: Buyer) -> None:
    """Control: an order that is filled up with blanks to the limit is booked."""
    body = json.dumps(ONE).encode().ljust(LIMIT_BYTES)

    headers = {"Content-Type": "application/json"}
    booked = await buyer.http.post("/v1/purchases", content=body, headers=headers)
    assert booked.status_code == 201


async def test_a_server_cuts_short_what_has_no_end(start_api: StartApi) -> None:
    """Over a real connection, too, a body without a length is cut off at the limit."""
    api = await start_api()
    chunk = b"400\r\n" + b" " * 1_024 + b"\r\n"
    async with api.connect() as wire:
        await wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        await wire.send(chunk * (LIMIT_BYTES // 1_024 + 1))
        assert (await wire.until_closed()).startswith(b"HTTP/1.1 413 ")


async def test_slow_senders_are_cut_off(start_api: StartApi) -> None:
    """Who drips headers, drips a body, or sends nothing at all is closed within the deadline."""
    api = await start_api(receive_timeout_ms=RECEIVE_MS)
    cases = {
        "nothing": (b"", b""),
        "a request line": (b"GET /nu", b"l"),
        "headers": (b"GET /null HTTP/1.1\r\nHost: shop\r\n", b"X: y\r\n"),
        "one long header": (b"GET /null HTTP/1.1\r\nX: ", b"y"),
        "a body": (HEAD + b"Content-Length: 10000\r\n\r\n", b" "),
        "a body in chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        "no body": (HEAD + b"Content-Length: 10000\r\n\r\n", b""),
        "the body of a refused method": (
            b"POST /events HTTP/1.1\r\nHost: shop\r\nContent-Length: 10000\r\n\r\n",
            b" ",
        ),
        "empty lines after an answer": (GET, b"\r\n"),
        "headers after an answer": (GET + b"GET /null HTTP/1.1\r\n", b"X: y\r\n"),
    }

    async def cut_off(start: bytes, drop: bytes) -> tuple[float, bytes]:
        async with api.connect() as wire:
            since_s = time.monotonic()
            await wire.send(start)
            said = await (answer_while_dripping(wire, drop) if drop else wire.until_closed())
            return time.monotonic() - since_s, said

    ended = await asyncio.gather(*(cut_off(*case) for case in cases.values()))
    took_s = {name: seconds for name, (seconds, _) in zip(cases, ended, strict=True)}
    said = {name: words[:13] for name, (_, words) in zip(cases, ended, strict=True)}

    assert {name: s for name, s in took_s.items() if s > 3 * RECEIVE_MS / 1_000} == {}
    slow = b"HTTP/1.1 408 "
    assert said == {
        "nothing": b"",
        "a request line": b"",
        "headers": b"",
        "one long header": b"",
        "a body": slow,
        "a body in chunks": slow,
        "no body": slow,
        "the body of a refused method": b"HTTP/1.1 405 ",
        "empty lines after an answer": b"HTTP/1.1 200 ",
        "headers after an answer": b"HTTP/1.1 200 ",
    }


async def test_control_without_a_deadline_a_drop_holds_a_connection(start_api: StartApi) -> None:
    """Control: given all the time there is, dripped headers hold their connection."""
    api = await start_api(receive_timeout_ms=600_000)
    async with api.connect() as wire:
        await wire.send(b"GET /null HTTP/1.1\r\nHost: shop\r\n")
        dripping = asyncio.create_task(drip(wire, b"X: y\r\n"))
        assert await wire.is_open(for_s=3 * RECEIVE_MS / 1_000)
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)


async def test_headers_without_end_are_cut_off(start_api: StartApi) -> None:
    """A connection that sends headers as fast as it can is closed before they fill the memory."""
    api = await start_api()

    async def flood(wire: Wire) -> int:
        sent = 0
        try:
            while sent < FLOOD_BYTES:
                await wire.send(b"X: " + b"y" * 15_995 + b"\r\n")
                sent += 16_000
        except ConnectionError:
            pass
        return sent

    async with api.connect() as wire:
        await wire.send(b"GET /null HTTP/1.1\r\nHost: shop\r\n")
        # What the two systems hold in their buffers counts as sent.
        assert await flood(wire) < FLOOD_BYTES / 4


AMBIGUOUS = {
    "length and chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "a signed length": b"Content-Length: +4\r\n\r\nabcd",
    "a negative length": b"Content-Length: -4\r\n\r\nabcd",
    "a length in hex": b"Content-Length: 0x4\r\n\r\nabcd",
    "a length beyond 64 bits": b"Content-Length: 18446744073709551617\r\n\r\na",
    "a length in two words": b"Content-Length: 4 5\r\n\r\nabcde",
    "chunked, and then not": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a blank before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a chunk of a size in words": b"Transfer-Encoding: chunked\r\n\r\nten\r\n\r\n",
    "a chunk of a negative size": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "a header without a colon": b"Content-Length 4\r\n\r\nabcd",
    "a NUL in a header": b"X: \x00\r\nContent-Length: 0\r\n\r\n",
}


async def test_a_request_of_two_meanings_is_refused(start_api: StartApi) -> None:
    """Where two readers could see two requests, the server sees none, and closes."""
    api = await start_api(receive_timeout_ms=RECEIVE_MS)
    for name, rest in AMBIGUOUS.items():
        async with api.connect() as wire:
            # The smuggled one would be answered by 200.
            await wire.send(HEAD + rest + GET)
            said = await wire.until_closed()
            assert said.startswith(b"HTTP/1.1 400 "), (name, said)
            assert said.count(b"HTTP/1.1") == 1, (name, said)


async def test_a_connection_is_used_again(start_api: StartApi) -> None:
    """After an answer a connection may rest for longer than headers may take, and is used again."""
    api = await start_api(receive_timeout_ms=RECEIVE_MS)
    async with api.connect() as wire:
        for _ in range(2):
            await wire.send(GET)
            assert (await wire.until(b"null")).startswith(b"HTTP/1.1 200 ")
            assert await wire.is_open(for_s=2 * RECEIVE_MS / 1_000)
        # Two requests at once are answered in their order.
        await wire.send(GET.replace(b"/null", b"/healthz") + GET)
        assert (await wire.until(b"null")).count(b"HTTP/1.1 200 ") == 2


async def test_a_websocket_is_not_opened(start_api: StartApi) -> None:
    """An upgrade is passed over: the request is answered as the plain one that it also is."""
    api = await start_api()
    async with api.connect() as wire:
        upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        await wire.send(GET.replace(b"\r\n\r\n", b"\r\n" + upgrade))
        assert (await wire.until(b"null")).startswith(b"HTTP/1.1 200 ")


async def test_a_request_that_takes_too_long_books_nothing(
    valkey: ServerNode, settings: Settings
) -> None:
    """A purchase that waits for its lock beyond the request's deadline is a 503, and no order."""
    hasty = settings.model_copy(update={"request_timeout_ms": 300})
    async with connected(valkey), open_door(hasty, valkey.url) as door:
        buyer = await door.buyer("ada")
        async with door.shop.lock(f"product:{PRODUCT}").hold(wait_ms=0):
            late = await buyer.buy(key="one")

        assert problem(late) == (503, "Service Unavailable")
        assert late.headers["retry-after"] == "1"
        assert (await buyer.http.get("/orders")).json() == []
        assert await door.books() == (100, 100, 0)
        assert b'outcome="unknown",stage="v1"} 1.0' in door.shop.metrics.render()
        assert (await buyer.buy(key="one")).status_code == 201


async def test_a_request_that_takes_too_long_books_one_order_that_is_found(
    valkey: ServerNode, settings: Settings
) -> None:
    """Cut off while the ledger writes, an order is there in the end, and its key finds it."""
    hasty = settings.model_copy(update={"request_timeout_ms": 300})
    async with connected(valkey), open_door(hasty, valkey.url) as door:
        buyer = await door.buyer("ada")
        with door.shop.database.writing() as other:
            other.execute(text("SELECT 1"))
            late = await buyer.buy(key="one")

        async def booked() -> bool:
            return len((await buyer.http.get("/orders")).json()) == 1

        assert problem(late) == (503, "Service Unavailable")
        await eventually(booked)
        again = await buyer.buy(key="one")
        assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
        assert [again.json()] == (await buyer.http.get("/orders")).json()

        async def settled() -> bool:
            return await door.books() == (99, 99, 1)

        door.shop.reconciler._reservation_ttl_ms = 1
        await eventually(settled)


async def test_a_stop_is_clean_and_soon(start_api: StartApi) -> None:
    """SIGTERM ends the server within 6 s, among slow senders, listeners and idle connections."""
    api = await start_api()
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(api.connect()) for _ in range(6)]
        starts = [
            b"",
            b"GET /nu",
            HEAD + b"Content-Length: 10000\r\n\r\n",
            GET,
            b"GET /events HTTP/1.1\r\nHost: shop\r\n\r\n",
            b"GET /events HTTP/1.1\r\nHost: shop\r\n\r\n",
        ]
        for wire, start in zip(wires, starts, strict=True):
            await wire.send(start)
        for listener in wires[4:]:
            await listener.until(b"\r\n\r\n")
        dripping = [
            asyncio.create_task(drip(wires[1], b"l")),
            asyncio.create_task(drip(wires[2], b" ")),
        ]

        since_s = time.monotonic()
        api.process.send_signal(signal.SIGTERM)
        exit_code = await api.wait(10)
        took_s = time.monotonic() - since_s

        for task in dripping:
            task.cancel()
        await asyncio.gather(*dripping, return_exceptions=True)
    assert exit_code in {0, -signal.SIGTERM}
    assert took_s < 6
    log = api.log.read_text()
    assert "Traceback" not in log, log
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{api.url}/healthz")
