"""Requests at a steady pace, whatever the server does: an open loop.

The problem: a generator that waits for an answer before it asks again is kind to a slow server; it
asks less, and never measures the queue. The idea: each request has a moment at which it is due, and
its latency counts from there, also when no connection was free yet.

It speaks just enough HTTP/1.1 for this: one kind of request, kept-alive connections, answers with a
Content-Length. Source: G. Tene's coordinated omission, as wrk2 avoids it.
"""

import asyncio
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

LENGTH = re.compile(rb"(?i)content-length: (\d+)")


@dataclass
class Paced:
    """What a paced run has brought: latencies in milliseconds of what was answered 201."""

    latencies_ms: list[float] = field(default_factory=list)
    refused: int = 0
    unanswered: int = 0


class _Line(asyncio.Protocol):
    """One connection: a request at a time."""

    def __init__(self, pacer: "_Pacer") -> None:
        self._pacer = pacer
        self._buffer = b""
        self._due_s: float | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, request: bytes, due_s: float) -> None:
        assert self._transport is not None
        self._due_s = due_s
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not end or length is None or len(body) < int(length[1]):
            return
        due_s, self._due_s, self._buffer = self._due_s, None, b""
        assert due_s is not None
        self._pacer.answered(self, due_s, is_booked=b" 201 " in head[:15])

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class _Pacer:
    def __init__(self, requests: Iterator[bytes]) -> None:
        self.result = Paced()
        self._requests = requests
        self._free: deque[_Line] = deque()
        self._late: deque[float] = deque()
        self._loop = asyncio.get_running_loop()

    def due(self, due_s: float) -> None:
        if self._free:
            self._free.popleft().ask(next(self._requests), due_s)
        else:
            self._late.append(due_s)

    def answered(self, line: _Line, due_s: float, *, is_booked: bool) -> None:
        if is_booked:
            self.result.latencies_ms.append((self._loop.time() - due_s) * 1_000)
        else:
            self.result.refused += 1
        self.free(line)

    def free(self, line: _Line) -> None:
        if self._late:
            line.ask(next(self._requests), self._late.popleft())
        else:
            self._free.append(line)


async def ask_at_a_pace(
    host: str,
    port: int,
    requests: Iterator[bytes],
    *,
    per_s: float,
    seconds: float,
    connections: int,
) -> Paced:
    """Send requests at a steady pace.

    Args:
        host: the server's.
        port: the server's.
        requests: the bytes of each, without an end.
        per_s: how many a second.
        seconds: for how long.
        connections: how many may be under way at once; the others wait, and their clocks run.
    """
    loop = asyncio.get_running_loop()
    pacer = _Pacer(requests)
    lines = []
    for _ in range(connections):
        _, line = await loop.create_connection(lambda: _Line(pacer), host, port)
        lines.append(line)
        pacer.free(line)
    count, began_s = int(per_s * seconds), loop.time()
    for number in range(count):
        due_s = began_s + number / per_s
        wait_s = due_s - loop.time()
        # Several that are due at once are sent at once.
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        pacer.due(due_s)
    await asyncio.sleep(1.0)  # what is under way has a second to come
    for line in lines:
        line.close()
    done = len(pacer.result.latencies_ms) + pacer.result.refused
    pacer.result.unanswered = count - done
    return pacer.result
