"""All links of a network, on an event loop in a thread of its own.

The problem: a fault is begun and ended by a cell, which may block its own event loop, have none,
or be interrupted in the middle. The idea: links live in another thread, and nothing of theirs is
touched from outside; a call puts a task on that thread's loop and waits for it. Once it is put
there it is done, whoever interrupts the wait.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from labshop.stack.faults.conditions import Conditions, Fault
from labshop.stack.faults.proxy import Link

ANSWER_DEADLINE_S = 10.0
T = TypeVar("T")


class Switchboard:
    """The links of a network; all methods may be called from any thread but its own.

    Args:
        servers: each server's name and port.
    """

    def __init__(self, servers: Mapping[str, int]) -> None:
        self._servers = dict(servers)
        self._links: dict[tuple[str, str], Link] = {}
        self._faults: list[Fault] = []
        running: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(running)), name="labshop network", daemon=True
        )
        self._thread.start()
        self._loop = running.result(ANSWER_DEADLINE_S)

    @property
    def names_of_servers(self) -> set[str]:
        return set(self._servers)

    def add(self, name: str, port: int) -> None:
        """Let a name stand for a server on this port, from its next connection on."""

        async def add() -> None:
            self._servers[name] = port

        self._ask(add)

    def look(self, client: str, server: str, see: Callable[[Link], T]) -> T:
        """Return what can be seen of a link, which is made when it is new."""

        async def look() -> T:
            async with self._one_change:
                if (client, server) not in self._links:
                    link = Link(lambda: self._servers[server], self._dials)
                    self._links[client, server] = link
                    await self._apply_faults()
            return see(self._links[client, server])

        return self._ask(look)

    def inflict(self, fault: Fault) -> None:
        """Let a fault begin."""

        async def inflict() -> None:
            async with self._one_change:
                self._faults.append(fault)
                await self._apply_faults()

        self._ask(inflict)

    def heal(self, fault: Fault) -> None:
        """Let a fault end; nothing happens when it has."""

        async def heal() -> None:
            async with self._one_change:
                if fault in self._faults:
                    self._faults.remove(fault)
                    await self._apply_faults()

        if self._thread.is_alive():
            self._ask(heal)

    def reset(self, affects: Callable[[str, str], bool]) -> None:
        """Break the connections that there are on these links."""

        async def reset() -> None:
            for names, link in self._links.items():
                if affects(*names):
                    link.reset()

        self._ask(reset)

    def close(self) -> None:
        """End all links and the thread; nothing happens when it has ended."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # its loop is closed, and the thread about to end
                self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(ANSWER_DEADLINE_S)

    def _ask(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if not self._thread.is_alive():
            raise RuntimeError("This network is closed.")
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(ANSWER_DEADLINE_S)

    async def _run(self, running: "Future[asyncio.AbstractEventLoop]") -> None:
        self._closing = asyncio.Event()
        self._one_change = asyncio.Lock()
        async with asyncio.TaskGroup() as self._dials:
            running.set_result(asyncio.get_running_loop())
            await self._closing.wait()
            for link in self._links.values():
                link.close()
            # A transport that is aborted closes its socket on the loop's next turn.
            await asyncio.sleep(0)

    async def _apply_faults(self) -> None:
        for (client, server), link in self._links.items():
            hit_by = [fault for fault in self._faults if fault.affects(client, server)]
            await link.suffer(Conditions(hit_by))
