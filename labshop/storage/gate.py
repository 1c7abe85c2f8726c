"""The gate as a whole: building it from the ledger, and noticing that its memory is another.

The problem: Redis may lose its memory, or come back with an older one, in mid-sale; whoever asks it
then must not be told of stock that was sold. The idea: only who holds the ticket builds, and proves
by it that the memory was empty before the ledger was read. The gate knows in which run of the
server it was built; over each new connection that is compared, before anything that it says is
believed.

A million buyers are more than one command can carry, and Redis serves nobody else while it runs
one. So a gate is filled in small parts beside the place where it is looked for, and put there in
one step, which counts first whether all of it has come. A builder that dies leaves parts that end
by themselves.

What is asked of it is `labshop.storage.inventory`'s business. It does not sell while it is built:
a second or two for each half a million buyers.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from itertools import islice

from labshop.clock import Clock
from labshop.locks import Node, NodeError
from labshop.locks.wire import Part, Reply
from labshop.lua import load_script
from labshop.shop.errors import Unavailable
from labshop.storage.records import Snapshot

TICKET_MS = 5_000
"""How long a builder that died keeps others from building; one that lives asks for more time."""
TICKET_RENEWALS = 20
"""How often it does; one that hangs for ever must not be waited for any longer."""
PARTS_MS = 60_000
"""How long the parts of a gate stay that nobody puts in its place; no ticket is kept so long."""
PART_SIZE = 1_000
"""Entries that are filled in at once; Redis is busy with them for about a millisecond."""
HEAT_WAIT_MS = 5_000
HEAT_PAUSE_MS = 20
LONGEST_HEAT_PAUSE_MS = 160
HEAT_TRIES = 10


class Gate:
    """The gate of one sale on one node.

    Args:
        node: the server that holds it.
        snapshot: reads the ledger; the source when the gate is built.
        clock: bounds how long building it is waited for.
        sale_id: which sale.
    """

    def __init__(
        self,
        node: Node,
        snapshot: Callable[[], Awaitable[Snapshot]],
        *,
        clock: Clock,
        sale_id: int,
    ) -> None:
        self.node = node
        self.snapshot = snapshot
        self.tag = tag_of(sale_id)
        self.key, self.bought, self.held, self.ticket, self.revoked = (
            f"{self.tag}:{name}" for name in ("gate", "bought", "held", "ticket", "revoked")
        )
        self.suspect = False
        """True when something could not be told to the gate, or it disagreed with the ledger."""
        self._clock = clock
        self._builder = secrets.token_hex(8)
        self._claims: set[str] = set()
        """Tickets of this builder that are asked for or held; one that is not here is old."""
        self._believed_connection = 0
        self._comparing = asyncio.Lock()

    async def heat(self) -> None:
        """Build the gate from the ledger if there is none.

        Raises:
            Unavailable: the gate or the ledger cannot be reached.
        """
        deadline_ms = self._clock.now_ms() + HEAT_WAIT_MS
        pause_ms = HEAT_PAUSE_MS
        while self._clock.now_ms() < deadline_ms:
            if await self.ask("HEXISTS", self.key, "epoch") or await self._build():
                return
            # Somebody else is reading the ledger for it; a crowd that asks often would hinder them.
            await self._clock.sleep_ms(pause_ms)
            pause_ms = min(2 * pause_ms, LONGEST_HEAT_PAUSE_MS)
        raise Unavailable("gate", "it could not be built in time")

    async def rebuild(self) -> None:
        """Drop the gate and build it anew; safe at any moment of a sale.

        Raises:
            Unavailable: the gate or the ledger cannot be reached; the gate stays suspect.
        """
        # Cleared first: what cannot be told to the gate from here on makes it suspect anew.
        self.suspect = False
        try:
            # A builder at work has read the ledger already; without its ticket it reads again.
            await self.ask("UNLINK", self.key, self.ticket)
            await self.heat()
        except BaseException:
            self.suspect = True
            raise

    async def believed(self, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """An answer over a connection to the memory in which this gate was built.

        What is asked may be carried out twice: before the gate was found to be old, and after.
        """
        for _ in range(HEAT_TRIES):
            await self._compare_memory()
            answer = await ask()
            if self._believed_connection == self.node.connections:
                return answer
        raise Unavailable("gate", "its connection breaks again and again")

    async def _compare_memory(self) -> None:
        if self._believed_connection == self.node.connections:
            return
        async with self._comparing:
            connection = self.node.connections
            if self._believed_connection == connection:
                return
            built_in = await self.ask("HGET", self.key, "run_id")
            if built_in not in (None, await self._run_id()):
                await self.rebuild()
            if self.node.connections == connection:
                self._believed_connection = connection

    async def _run_id(self) -> str:
        """Which run of the server answers: an id that is new at each of its starts."""
        server = await self.ask("INFO", "server")
        lines = (line.split(":", 1) for line in server.splitlines() if ":" in line)
        return str(dict(lines)["run_id"])

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Part]) -> Reply:
        """Run one of the shop's scripts; an outage is told in the shop's words."""
        try:
            return await self.node.run(load_script("labshop.storage", script), keys, args)
        except NodeError as error:
            # Nothing is in the ledger yet, or it is there already: for the buyer this is
            # definite. What the gate made of it is found out by the order's id.
            raise Unavailable("gate", error.reason) from error

    async def ask(self, *parts: Part) -> Reply:
        """Send a command; an outage is told in the shop's words."""
        try:
            return await self.node.command(*parts)
        except NodeError as error:
            raise Unavailable("gate", error.reason) from error

    async def _build(self) -> bool:
        number = secrets.token_hex(8)
        ticket = f"{self._builder}:{number}"
        is_alone = not self._claims
        if is_alone:
            self._claims.add(ticket)
        try:
            args = (self._builder, number, int(is_alone), TICKET_MS)
            if not await self.run("take_ticket", (self.ticket,), args):
                return False
            self._claims.add(ticket)
            async with self._kept(ticket):
                return await self._install(ticket, await self.snapshot())
        except BaseException:
            # The ticket may have been taken, also where the reply was lost; nobody waits for it.
            hand_in = load_script("labshop.locks", "release_lock")
            self.node.post(hand_in, (self.ticket,), (ticket,))
            raise
        finally:
            self._claims.discard(ticket)

    async def _install(self, ticket: str, snapshot: Snapshot) -> bool:
        """Fill a gate part by part, and put it in its place if nothing has come in between."""
        gate, bought, revoked = (f"{key}:{ticket}" for key in (self.key, self.bought, self.revoked))
        stock = ((f"left:{product}", units) for product, units in snapshot.left.items())
        ends = ((as_ms(end), token) for token, end in snapshot.revoked.items())
        filled = (
            await self._fill(ticket, gate, "HSET", stock)
            and await self._fill(ticket, bought, "HSET", snapshot.bought.items())
            and await self._fill(ticket, revoked, "ZADD", ends)
        )
        if not filled:
            return False
        sale = snapshot.sale
        args: list[Part] = [ticket, snapshot.sequence]
        args += [as_ms(sale.opens_at), as_ms(sale.closes_at)]
        args += [sale.limit_per_user, await self._run_id()]
        args += [len(snapshot.left), len(snapshot.bought), len(snapshot.revoked)]
        keys = (self.key, self.bought, self.held, self.ticket, self.revoked, gate, bought, revoked)
        return bool(await self.run("heat_gate", keys, args) == 1)

    async def _fill(
        self, ticket: str, key: str, command: str, entries: Iterable[tuple[Part, Part]]
    ) -> bool:
        """Fill a hash or a sorted set, part by part; False when the ticket is gone."""
        for part in _parts(entries):
            args = (ticket, PARTS_MS, command, *part)
            if not await self.run("fill_gate", (self.ticket, key), args):
                return False
        return True

    @asynccontextmanager
    async def _kept(self, ticket: str) -> AsyncIterator[None]:
        """Keep a ticket for the length of a body."""
        # Not a task group: what the body raises must pass as it is.
        keeper = asyncio.create_task(self._keep(ticket))
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.wait((keeper,))

    async def _keep(self, ticket: str) -> None:
        extend = load_script("labshop.locks", "extend_locks")
        for _ in range(TICKET_RENEWALS):
            await self._clock.sleep_ms(TICKET_MS / 3)
            # An outage ends the building by itself; a ticket that is lost is told to the builder.
            with suppress(NodeError):
                await self.node.run(extend, (self.ticket,), (ticket, TICKET_MS))


def _parts(entries: Iterable[tuple[Part, Part]]) -> Iterator[list[Part]]:
    """Entries as flat lists of at most `PART_SIZE` of them."""
    rest = iter(entries)
    while part := [half for entry in islice(rest, PART_SIZE) for half in entry]:
        yield part


def tag_of(sale_id: int) -> str:
    """What the names of all keys of a sale begin with: a Redis Cluster keeps them on one node."""
    return f"{{sale:{sale_id}}}"


def as_ms(moment: datetime) -> int:
    """Milliseconds since 1970."""
    return int(moment.timestamp() * 1_000)
