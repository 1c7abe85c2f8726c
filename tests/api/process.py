"""The API as a process of its own, as `labshop up` runs it, and raw connections to it."""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx2 as httpx

from labshop.api.tokens import Tokens
from labshop.clock import SystemClock
from labshop.stack.leash import Leash
from labshop.stack.ports import LOOPBACK, free_port

PROGRAM = """
from labshop.api.server import run
from labshop.settings import read_settings
run(read_settings())
"""
DEADLINE_S = 20.0


class ApiProcess:
    """One server process.

    Args:
        leash: ends it when the tests end.
        folder: for its home and its log.
        port: 0 takes a free one.
        settings: by the names of `Settings`.
    """

    def __init__(
        self,
        leash: Leash,
        folder: Path,
        *,
        gate_url: str,
        secret: str,
        port: int = 0,
        **settings: object,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.log = folder / f"api-{secrets.token_hex(4)}.log"
        self._tokens = Tokens(secret, ttl_s=600, clock=SystemClock())
        settings = {"user_rate_per_s": 1_000_000, "user_burst": 1_000_000} | settings
        settings |= {"home": folder / "home", "gate_url": gate_url}
        settings |= {"api_port": self.port, "jwt_secret": secret}
        env = {f"LABSHOP_{name.upper()}": str(value) for name, value in settings.items()}
        with self.log.open("ab") as output:
            self.process = leash.start([sys.executable, "-c", PROGRAM], output, os.environ | env)

    async def sells(self) -> bool:
        """Whether it is ready, by its own word."""
        assert self.process.poll() is None, self.log.read_text()
        async with self.client() as client:
            try:
                return (await client.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

    def client(self, token: str | None = None) -> httpx.AsyncClient:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=DEADLINE_S)

    async def sign_up(self, name: str) -> str:
        """Make a user over HTTP; returns a token of theirs."""
        async with self.client() as client:
            body = {"name": name, "password": "correct horse"}
            user = (await client.post("/auth/signup", json=body)).raise_for_status().json()
        return self.token(user["id"])

    def token(self, user_id: int) -> str:
        """A new token of a user."""
        return self._tokens.issue(user_id)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["Wire"]:
        """A raw connection, for what no client library would send."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        try:
            yield Wire(reader, writer)
        finally:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def wait(self, within_s: float) -> int:
        """Wait for its end; returns its exit code."""
        return await asyncio.to_thread(self.process.wait, within_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Wire:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def until(self, end: bytes) -> bytes:
        """What comes, up to an ending."""
        async with asyncio.timeout(DEADLINE_S):
            return await self._reader.readuntil(end)

    async def until_closed(self) -> bytes:
        """What comes until the server closes the connection."""
        received = b""
        async with asyncio.timeout(DEADLINE_S):
            try:
                while data := await self._reader.read(65_536):
                    received += data
            except ConnectionResetError:
                pass
        return received

    async def is_open(self, for_s: float) -> bool:
        """Whether the server leaves it open, and silent, for so long."""
        try:
            async with asyncio.timeout(for_s):
                assert await self._reader.read(1) == b"", "the server spoke unasked"
        except TimeoutError:
            return True
        return False
