"""Where a server is: what a URL says, what Sentinels and a Cluster say, and who is not believed."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from labshop.locks import Node, NodeDown, NodeError, NodeRefused, NodeSilent
from labshop.locks.address import Address, Guides, address_book, without_password
from labshop.locks.keys import fence_key, lock_key, queue_keys
from labshop.locks.slots import beside, slot_of
from labshop.stack.cluster import ServerCluster
from labshop.stack.ports import LOOPBACK, free_port
from labshop.stack.sentinels import SentinelPair
from tests.conftest import eventually
from tests.topologies import replicated_cluster

KEY = "{sale:1}:gate"
TIMEOUT_MS = 5_000


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelPair]:
    with SentinelPair(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerCluster]:
    with replicated_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
async def node(pair: SentinelPair) -> AsyncIterator[Node]:
    node = Node(pair.url, timeout_ms=TIMEOUT_MS)
    yield node
    await node.close()


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("redis://", [("127.0.0.1", 6379)]),
        ("redis://shop:secret@host:1/2", [("host", 1)]),
        ("redis+sentinel://a,b:2/gate", [("a", 26379), ("b", 2)]),
        ("redis+sentinel://shop:secret@a:1,b:2/gate/3", [("a", 1), ("b", 2)]),
        ("redis+cluster://a,b:2", [("a", 6379), ("b", 2)]),
        ("redis+cluster://shop:secret@a:1/0", [("a", 1)]),
    ],
)
def test_a_url_names_one_server_or_its_guides(url: str, addresses: list[tuple[str, int]]) -> None:
    """Each form of URL is read, with its ports."""
    book = address_book(url, timeout_ms=TIMEOUT_MS, key=KEY)

    assert list(book.guides if isinstance(book, Guides) else [book.first]) == addresses


def test_a_password_is_the_servers_and_an_option_the_sentinels() -> None:
    """The servers of a pair and its Sentinels may want different passwords."""
    url = "redis+sentinel://shop:s%40cret@a/gate/3?sentinel_password=other"

    book = address_book(url, timeout_ms=TIMEOUT_MS)

    assert book.greeting == [("HELLO", 3, "AUTH", "shop", "s@cret"), ("SELECT", "3")]
    assert isinstance(book, Guides)
    assert book.guide_greeting == [("HELLO", 3, "AUTH", "default", "other")]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://shop:secret@host", "begins with none"),
        ("redis+other://shop:secret@host", "begins with none"),
        ("shop:secret@host", "begins with none"),
        ("redis://shop:secret@a:1,b:2", "several servers"),
        ("redis://shop:sec/secret@host:1", "a port is not a number"),
        ("redis+sentinel://shop:secret@a:1,b:2", "names no service"),
        ("redis+sentinel://shop:secret@a:99999/gate", "a port is not a number"),
        ("redis+sentinel://shop@a/gate?password=secret", "its only options"),
        ("redis+cluster://shop:secret@a:1/2", "database 0 only"),
        ("redis+cluster://shop:secret@a:x", "a port is not a number"),
    ],
)
def test_a_url_of_no_use_is_refused_and_not_quoted(url: str, reason: str) -> None:
    """The sentence says what is wrong, and holds no password."""
    with pytest.raises(ValueError, match=reason) as refusal:
        address_book(url, timeout_ms=TIMEOUT_MS)

    assert "sec" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:1/0", "redis://host:1/0"),
        ("redis://shop:se/cr@et@host:1", "redis://host:1"),
        ("redis+sentinel://u:p@a,b/gate?sentinel_password=p", "redis+sentinel://a,b/gate"),
        ("shop:secret@host", "host"),
    ],
)
def test_a_url_is_shown_without_passwords(url: str, shown: str) -> None:
    """Whatever stands before the hosts, and the options, are left out."""
    assert without_password(url) == shown


def test_a_lock_can_have_the_slot_of_other_keys() -> None:
    """All keys of a lock beside a tag have the slot of that tag; without it they have their own."""
    for name in ("door", "product:1"):
        tagged = beside("{sale:1}", name)
        keys = (lock_key(tagged), fence_key(tagged), *queue_keys(tagged))
        assert {slot_of(key) for key in keys} == {slot_of(KEY)}
        assert slot_of(lock_key(name)) != slot_of(KEY)


async def test_sentinels_lead_to_the_master(pair: SentinelPair, node: Node) -> None:
    """The node is the master of the pair, and can be written to."""
    assert await node.command("SET", "a", "b") == "OK"

    assert Address(node.host, node.port) == (LOOPBACK, pair.primary.port)


async def test_a_sentinel_that_does_not_answer_is_not_waited_for(
    pair: SentinelPair, node: Node
) -> None:
    """Of three Sentinels one is frozen: what the two others say is enough, long before the time."""
    pair.sentinels[0].send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(TIMEOUT_MS / 1_000 / 4):  # half of it would be its own
            assert await node.command("PING") == "PONG"
    finally:
        pair.sentinels[0].send_signal(signal.SIGCONT)


async def test_one_guide_of_many_is_enough(pair: SentinelPair) -> None:
    """Where all others are dead, the last one is believed."""
    dead = ",".join(f"{LOOPBACK}:{free_port()}" for _ in range(3))
    node = Node(f"redis+sentinel://{dead},{LOOPBACK}:{pair.ports[0]}/gate", timeout_ms=TIMEOUT_MS)

    assert await node.command("PING") == "PONG"
    await node.close()


async def test_nobody_knows_of_the_service(pair: SentinelPair) -> None:
    """A service that no Sentinel knows is a definite failure, with the reason of each."""
    node = Node(pair.url.replace("/gate", "/other"), timeout_ms=TIMEOUT_MS)

    with pytest.raises(NodeDown, match="other") as failure:
        await node.command("PING")

    assert failure.value.definite
    assert all(str(port) in failure.value.reason for port in pair.ports)


@pytest.mark.parametrize("asks", [True, False], ids=["asks", "control"])
async def test_a_replica_is_not_taken_for_the_master(
    pair: SentinelPair, node: Node, monkeypatch: pytest.MonkeyPatch, *, asks: bool
) -> None:
    """What Sentinels said may be old: who answers there has to call itself a master.

    Control: where it is not asked, the replica is taken, and refuses to be written to.
    """

    async def find(_: Guides) -> Address:
        return Address(LOOPBACK, pair.replica.port)

    monkeypatch.setattr(Guides, "find", find)
    monkeypatch.setattr(Guides, "names_masters", asks)

    with pytest.raises(NodeDown if asks else NodeRefused, match="replica"):
        await node.command("SET", "a", "b")


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "control"])
async def test_who_was_set_aside_is_left(
    pair: SentinelPair, node: Node, monkeypatch: pytest.MonkeyPatch, *, leaves: bool
) -> None:
    """A replica's refusal is definite, and the next command goes to whoever is the master then.

    Control: where the connection does not end by it, the next command is refused as well.
    """
    right = address_book(pair.url, timeout_ms=TIMEOUT_MS)

    async def find(_: Guides) -> Address:
        return Address(LOOPBACK, pair.replica.port)

    monkeypatch.setattr(Guides, "names_masters", False)  # it was one when asked
    with monkeypatch.context() as before:
        before.setattr(Guides, "find", find)
        if not leaves:
            object.__setattr__(node._book, "moved", ())
        await node.ready()
    outcomes = await asyncio.gather(
        *(node.command("SET", key, "b") for key in "abc"), return_exceptions=True
    )
    assert isinstance(outcomes[0], NodeRefused)
    assert outcomes[0].definite
    # The connection ends with the packet of the first refusal; the others may be in a later one.
    others = (NodeRefused, NodeSilent) if leaves else NodeRefused
    assert all(isinstance(it, others) for it in outcomes[1:])

    if leaves:
        assert await node.command("SET", "a", "b") == "OK"
        assert (node.host, node.port) == await right.find()
    else:
        with pytest.raises(NodeRefused, match="READONLY"):
            await node.command("SET", "a", "b")


async def test_a_slot_is_followed_to_its_new_master(cluster: ServerCluster) -> None:
    """After a failover by hand the old master answers MOVED, once, and the new one is asked then;
    that a key of another slot was moved is no reason to leave.
    """
    node = Node(cluster.url, timeout_ms=TIMEOUT_MS, key=KEY)
    number = cluster.owner(slot_of(KEY))
    assert await node.command("SET", KEY, "b") == "OK"
    assert node.port == cluster.masters[number].port
    other = next(it for it in "abc" if cluster.owner(slot_of(it)) != number)
    with pytest.raises(NodeRefused, match="MOVED"):
        await node.command("GET", other)
    assert await node.command("GET", KEY) == "b"
    assert node.connections == 1

    replica = Node(cluster.replicas[number].url, timeout_ms=TIMEOUT_MS)
    await replica.command("CLUSTER", "FAILOVER")
    await eventually(lambda: is_answered_by(node, replica.port))

    assert node.connections == 2
    await replica.close()
    await node.close()


async def test_nobody_answers_for_the_slot() -> None:
    """Seeds that do not answer are a definite failure."""
    nowhere = f"redis+cluster://{LOOPBACK}:{free_port()},{LOOPBACK}:{free_port()}"
    node = Node(nowhere, timeout_ms=TIMEOUT_MS, key=KEY)

    with pytest.raises(NodeDown, match="slot 4774"):
        await node.command("PING")


async def is_answered_by(node: Node, port: int) -> bool:
    try:
        return bool(await node.command("GET", KEY) == "b" and node.port == port)
    except NodeError:
        return False
