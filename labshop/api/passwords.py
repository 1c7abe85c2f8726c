"""Passwords, hashed slowly on purpose, and never so many at once that the shop stands still.

Argon2id with OWASP's parameters (19 MiB, two passes, one lane): about a tenth of a second of
one core. It runs in threads, at most two at a time; a crowd that logs in waits in line there.

Source: OWASP Password Storage Cheat Sheet.
"""

import anyio
import anyio.to_thread
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

AT_ONCE = 2


class Passwords:
    """Hashes and verifies passwords."""

    def __init__(self) -> None:
        self._hasher = PasswordHash((Argon2Hasher(memory_cost=19_456, time_cost=2, parallelism=1),))
        self._limiter = anyio.CapacityLimiter(AT_ONCE)
        self._nobodys: str | None = None

    def hash_now(self, password: str) -> str:
        """The hash to store, computed in the caller's thread."""
        return self._hasher.hash(password)

    async def hash(self, password: str) -> str:
        """The hash to store."""
        return await anyio.to_thread.run_sync(self.hash_now, password, limiter=self._limiter)

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Whether the password fits; without a usable hash it takes as long, and does not."""
        usable = password_hash is not None and Argon2Hasher.identify(password_hash)
        if password_hash is None or not usable:
            self._nobodys = self._nobodys or await self.hash("nobody's password")
            password_hash = self._nobodys
        fits = await anyio.to_thread.run_sync(
            self._hasher.verify, password, password_hash, limiter=self._limiter
        )
        return usable and fits
