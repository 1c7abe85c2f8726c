"""A network between named clients and named servers, which a cell breaks and heals.

The problem: nobody's loopback is slow, loses a reply or falls into two halves, and a learner has
no root to make it so. The idea: a client does not dial a server's own port but one that stands
for its way to that server; a proxy behind that port hands the bytes on, and a fault is a `with`
body. The proxy has a thread of its own, so it goes on while a cell blocks, and serves code with
and without `await` alike.

It does not promise what needs a kernel: the proxy itself accepts a client's connection, so a
client learns of a dead or unreachable server at its first command, not when it connects (only
`refused` is seen at once). A program that keeps Python's interpreter to itself slows the proxy.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Self

from labshop.stack.faults.conditions import Fault, Way
from labshop.stack.faults.proxy import Link
from labshop.stack.faults.switchboard import Switchboard

Names = str | Collection[str]
"""One name, or several."""


@dataclass(frozen=True)
class Traffic:
    """What a link has seen so far, over all of its connections.

    `requests_bytes` and `replies_bytes` were handed on; of what was dropped, the newest chunks
    are kept to be looked at. `connections` counts all that a client ever opened.
    """

    requests_bytes: int
    replies_bytes: int
    dropped_requests_bytes: int
    dropped_replies_bytes: int
    dropped_requests: tuple[bytes, ...]
    dropped_replies: tuple[bytes, ...]
    connections: int


@contextmanager
def distant(port: int, delay_ms: float, jitter_ms: float = 0) -> Iterator[int]:
    """Put one server further away for the length of a `with` body.

    Args:
        port: the server's, on this machine.
        delay_ms: added to a round trip, half of it each way.
        jitter_ms: up to so much more, drawn anew for each chunk.

    Returns:
        The port under which the distant server is reached.
    """
    with Network({"server": port}) as network, network.delayed(delay_ms, jitter_ms):
        yield network.port("server")


class Network:
    """Ways between clients and servers on this machine; it works from construction until `close`.

    Each fault is a context manager. Faults may overlap, and each ends with its own body, in any
    order, also when the body is interrupted. They hit the links of the given clients and
    servers: a name, several, or None for all, those that are made later too.

    Args:
        servers: each server's name and port. A name may also be that of a client: the two are
            then on one machine, and on one side of a partition.
    """

    def __init__(self, servers: Mapping[str, int]) -> None:
        self._board = Switchboard(servers)

    def add(self, name: str, port: int) -> None:
        """Make a server known, or say that it is on another port from its next connection on."""
        self._board.add(name, port)

    def port(self, server: str, client: str = "client") -> int:
        """Return the port under which a client reaches a server through this network."""
        self._check({server})
        return self._board.look(client, server, lambda link: link.port)

    def traffic(self, server: str, client: str = "client") -> Traffic:
        """Return what a client and a server have exchanged, and what was dropped."""
        self._check({server})
        return self._board.look(client, server, _traffic)

    @contextmanager
    def delayed(
        self,
        delay_ms: float,
        jitter_ms: float = 0,
        *,
        client: Names | None = None,
        server: Names | None = None,
        seed: int = 0,
    ) -> Iterator[None]:
        """Add a delay to each round trip, half of it each way; order and bandwidth are kept.

        Args:
            delay_ms: the least that is added to a round trip.
            jitter_ms: up to so much more, drawn anew for each chunk.
            client: whose links are hit.
            server: to where.
            seed: decides the jitter.
        """
        fault = Fault(
            self._between(client, server),
            delay_s=delay_ms / 2_000,
            jitter_s=jitter_ms / 2_000,
            dice=Random(seed),  # noqa: S311  # chance that can be repeated
        )
        with self._during(fault):
            yield

    @contextmanager
    def requests_dropped(
        self, *, client: Names | None = None, server: Names | None = None
    ) -> Iterator[None]:
        """Swallow what clients send: it is never carried out.

        TCP never goes on behind a gap, and a client that did would take one command's reply
        for another's. So a connection that has lost something is reset when this ends.
        """
        with self._during(Fault(self._between(client, server), drops=Way.REQUESTS)):
            yield

    @contextmanager
    def replies_dropped(
        self, *, client: Names | None = None, server: Names | None = None
    ) -> Iterator[None]:
        """Swallow what servers answer: it has been carried out, and nobody hears of it.

        A connection that has lost something is reset when this ends; see `requests_dropped`.
        """
        with self._during(Fault(self._between(client, server), drops=Way.REPLIES)):
            yield

    @contextmanager
    def partitioned(self, *groups: Names) -> Iterator[None]:
        """Cut the network into groups that do not hear of each other.

        What is sent across is held, and arrives after the heal, as TCP sends it again; a sender
        of more than `stream.QUEUE_BYTES` has to wait. New connections hang as well.

        Args:
            groups: the names of clients and servers that stay together. All names in none of
                them, known or not, form one more group.

        Raises:
            ValueError: a name stands in two groups.
        """
        side_of: dict[str, int] = {}
        for side, group in enumerate(groups, start=1):
            for name in _names(group):
                if side_of.setdefault(name, side) != side:
                    raise ValueError(f"{name} cannot be on two sides of a partition.")

        def is_cut(client: str, server: str) -> bool:
            return side_of.get(client, 0) != side_of.get(server, 0)

        with self._during(Fault(is_cut, holds=True)):
            yield

    @contextmanager
    def dripping(
        self, bytes_per_s: float, *, client: Names | None = None, server: Names | None = None
    ) -> Iterator[None]:
        """Let only so many bytes a second through, on each way of each connection."""
        if bytes_per_s <= 0:
            raise ValueError("A drip of nothing is a partition; see `partitioned`.")
        with self._during(Fault(self._between(client, server), bytes_per_s=bytes_per_s)):
            yield

    @contextmanager
    def refused(
        self, *, client: Names | None = None, server: Names | None = None
    ) -> Iterator[None]:
        """Break all connections and refuse new ones, as a machine does whose server is dead."""
        with self._during(Fault(self._between(client, server), refuses=True)):
            yield

    def reset(self, *, client: Names | None = None, server: Names | None = None) -> None:
        """Break all present connections by a TCP reset, at this moment; new ones work."""
        self._board.reset(self._between(client, server))

    def close(self) -> None:
        """Heal everything, break every connection, and end; once more does nothing."""
        self._board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _during(self, fault: Fault) -> Iterator[None]:
        try:
            self._board.inflict(fault)
            yield
        finally:
            try:
                self._board.heal(fault)
            except KeyboardInterrupt:
                # Perhaps it came before the heal was on its way; to heal twice does no harm.
                self._board.heal(fault)
                raise

    def _between(self, client: Names | None, server: Names | None) -> Callable[[str, str], bool]:
        clients = None if client is None else _names(client)
        servers = None if server is None else _names(server)
        self._check(servers or set())

        def is_hit(client: str, server: str) -> bool:
            return (clients is None or client in clients) and (servers is None or server in servers)

        return is_hit

    def _check(self, servers: Collection[str]) -> None:
        for name in servers:
            if name not in self._board.names_of_servers:
                known = ", ".join(sorted(self._board.names_of_servers))
                raise ValueError(f"No server is called {name}; there are: {known}.")


def _names(names: Names) -> set[str]:
    return {names} if isinstance(names, str) else set(names)


def _traffic(link: Link) -> Traffic:
    requests, replies = link.tallies[Way.REQUESTS], link.tallies[Way.REPLIES]
    return Traffic(
        requests_bytes=requests.passed_bytes,
        replies_bytes=replies.passed_bytes,
        dropped_requests_bytes=requests.dropped_bytes,
        dropped_replies_bytes=replies.dropped_bytes,
        dropped_requests=tuple(requests.dropped),
        dropped_replies=tuple(replies.dropped),
        connections=link.accepted,
    )
