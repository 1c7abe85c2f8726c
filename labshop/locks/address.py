"""Where a server is: at the address that was written down, or where those who know say it is.

The problem: after a failover another server is the master, and the address that was written down
leads to a dead one, or to one that was set aside and has not heard of it. The idea: an address is
asked for anew at each connection. Several *guides* (the Sentinels of a pair, or nodes of a Cluster)
are asked at once, what most of them say is believed, and who answers there must call itself a
master. What a server refuses because it is no longer the one to ask ends the connection to it.

It does not promise that there is one master only: one that is cut off from the others goes on until
it notices. What it grants meanwhile, the ledger has to judge.

Source: Redis documentation, "Guidelines for Redis clients with support for Redis Sentinel", and
"Redis cluster specification", on redirection.
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlsplit

from labshop.locks.errors import NodeDown, NodeError
from labshop.locks.greeting import greeting_of
from labshop.locks.slots import slot_of
from labshop.locks.wire import Part, Reply, Wire

Greeting = Sequence[Sequence[Part]]

SET_ASIDE = ("READONLY", "MASTERDOWN")
"""How a server's refusals begin that has become a replica."""


class Address(NamedTuple):
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class FixedAddress:
    """A server that is always at one place."""

    first: Address
    greeting: Greeting
    tls: ssl.SSLContext | None
    slot: ClassVar[None] = None
    moved: ClassVar[tuple[str, ...]] = ()
    names_masters: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The address."""
        return str(self.first)

    async def find(self) -> Address:
        """The address."""
        return self.first


@dataclass(frozen=True)
class Guides:
    """Several servers that know where a master is, of which one has to answer."""

    name: str
    """Of whom is looked for, for errors."""
    guides: tuple[Address, ...]
    guide_greeting: Greeting
    question: tuple[Part, ...]
    read: Callable[[Reply, Address], Address]
    """Makes an address of a guide's answer; a `LookupError` says that there is none in it."""
    greeting: Greeting
    """How to begin with the master itself."""
    tls: ssl.SSLContext | None
    moved: tuple[str, ...]
    """How the master's refusals begin after which it is to be looked for anew."""
    ask_ms: float
    """How long a guide may take to answer."""
    slot: int | None = None
    """In a Cluster, whose master is looked for."""
    names_masters: ClassVar[bool] = True
    """Whether who is found has to be a master."""

    @property
    def first(self) -> Address:
        """The first of the guides."""
        return self.guides[0]

    async def find(self) -> Address:
        """What most of the guides say; who is slow is not waited for once that is clear.

        Raises:
            NodeDown: none of them knows; says of each why.
        """
        named: Counter[Address] = Counter()
        reasons: list[str] = []
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(self._ask(guide)) for guide in self.guides]
            for told in asyncio.as_completed(asking):
                answer = await told
                if isinstance(answer, str):
                    reasons.append(answer)
                    continue
                named[answer] += 1
                if named[answer] > len(asking) // 2:
                    break
            for task in asking:
                task.cancel()
        if not named:
            raise NodeDown(self.name, "; ".join(sorted(reasons)))
        return named.most_common(1)[0][0]

    async def _ask(self, guide: Address) -> Address | str:
        """Where the master is, as one guide says, or why it does not say."""
        timeout_s = self.ask_ms / 1_000
        loop = asyncio.get_running_loop()

        def make() -> Wire:
            return Wire(str(guide), timeout_s, _ignore, _ignore, _ignore)

        try:
            async with asyncio.timeout(timeout_s):
                _, wire = await loop.create_connection(make, *guide, ssl=self.tls)
                try:
                    said = [wire.send(it) for it in (*self.guide_greeting, self.question)]
                    return self.read((await asyncio.gather(*said))[-1], guide)
                finally:
                    wire.abort()
        except TimeoutError:
            return f"{guide} does not answer"
        except NodeError as error:
            return f"{guide}: {error.reason}"
        except (OSError, UnicodeError, LookupError, TypeError, ValueError) as error:
            return f"{guide}: {error}"


AddressBook = FixedAddress | Guides
"""Knows where a server is, and how it wants to be greeted."""


def address_book(url: str, *, timeout_ms: float, key: str = "") -> AddressBook:
    """Read a URL.

    Args:
        url: ``redis://[user:password@]host[:port][/database]``, or one of several hosts with commas
            between them: ``redis+sentinel://…/service[/database]`` names the Sentinels of a pair,
            ``redis+cluster://…`` some nodes of a Cluster. ``rediss`` in place of ``redis`` is TLS.
            User and password are the server's; those of Sentinels are the options
            ``?sentinel_username=…&sentinel_password=…``.
        timeout_ms: how long a connection may take; half of it is for asking where to.
        key: any of the keys that will be asked for; in a Cluster, the server is who has its slot.

    Raises:
        ValueError: the URL is not usable; the sentence does not quote it, for it may hold a
            password.
    """
    parts = urlsplit(url)
    security, _, kind = parts.scheme.partition("+")
    if security not in ("redis", "rediss") or kind not in ("", "sentinel", "cluster"):
        raise ValueError("it begins with none of redis://, redis+sentinel:// and redis+cluster://")
    tls = ssl.create_default_context() if security == "rediss" else None
    if kind == "sentinel":
        return _sentinels(parts, tls, timeout_ms / 2)
    if kind == "cluster":
        return _cluster(parts, tls, timeout_ms / 2, key)
    [address] = _addresses(parts, 6379, at_most=1)
    return FixedAddress(address, greeting_of(parts.username, parts.password, parts.path), tls)


def without_password(url: str) -> str:
    """A URL as it may be shown: without user, password and options."""
    scheme, mark, rest = url.rpartition("://")
    return scheme + mark + rest.rpartition("@")[2].partition("?")[0]


def _sentinels(parts: SplitResult, tls: ssl.SSLContext | None, ask_ms: float) -> Guides:
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("it names no service: redis+sentinel://host:26379/service")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    username, password = (options.pop(f"sentinel_{it}", None) for it in ("username", "password"))
    if options:
        raise ValueError("its only options are sentinel_username and sentinel_password")
    guides = _addresses(parts, 26379)

    def read(answer: Reply, _: Address) -> Address:
        if answer is None:
            raise LookupError(f"no service {service!r} is known")
        return Address(answer[0], int(answer[1]))

    return Guides(
        name=f"{service} (by Sentinel)",
        guides=guides,
        guide_greeting=greeting_of(username, password, ""),
        question=("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service),
        read=read,
        greeting=greeting_of(parts.username, parts.password, database),
        tls=tls,
        moved=SET_ASIDE,
        ask_ms=ask_ms,
    )


def _cluster(parts: SplitResult, tls: ssl.SSLContext | None, ask_ms: float, key: str) -> Guides:
    if parts.path.strip("/") not in ("", "0") or parts.query:
        raise ValueError("a Cluster has database 0 only, and no options")
    slot = slot_of(key)
    greeting = greeting_of(parts.username, parts.password, "")

    def read(answer: Reply, guide: Address) -> Address:
        for first, last, master, *_ in answer:
            if first <= slot <= last:
                return Address(master[0] or guide.host, master[1])
        raise LookupError(f"nobody serves slot {slot}")

    return Guides(
        name=f"slot {slot} of the Cluster",
        guides=_addresses(parts, 6379),
        guide_greeting=greeting,
        question=("CLUSTER", "SLOTS"),
        read=read,
        greeting=greeting,
        tls=tls,
        # A key of another slot is somebody's mistake, and no reason to leave.
        moved=(*SET_ASIDE, f"MOVED {slot} ", "CLUSTERDOWN"),
        ask_ms=ask_ms,
        slot=slot,
    )


def _addresses(parts: SplitResult, port: int, at_most: int = 100) -> tuple[Address, ...]:
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if len(hosts) > at_most:
        raise ValueError("it names several servers; begin it with redis+sentinel or redis+cluster")
    try:
        split = [urlsplit(f"//{host}") for host in hosts]
        return tuple(Address(it.hostname or "127.0.0.1", it.port or port) for it in split)
    except ValueError:
        # Not quoted: with a "/" in it, what looks like a port is a part of a password.
        raise ValueError("a port is not a number from 0 to 65535") from None


def _ignore(*_: object) -> None:
    """Nothing is to be done: the connection lives for one question."""
