"""The faults of a network act on the wire, and are healed."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from labshop.locks import Node, NodeDown, NodeSilent
from labshop.stack.faults import Network, distant
from labshop.stack.faults.stream import Ending, Stream
from labshop.stack.leash import Leash
from labshop.stack.nodes import ServerNode
from labshop.stack.probe import ask_redis
from tests.conftest import connected, eventually
from tests.stack.network_clients import PATIENCE_MS, answers, dial, round_trip_ms, running, saw


@pytest.fixture
async def near(valkey: ServerNode) -> AsyncIterator[Node]:
    """A connection past the network, to a server that has been emptied."""
    async with connected(valkey) as node:
        yield node


@pytest.fixture
def net(valkey: ServerNode) -> Iterator[Network]:
    with Network({"redis": valkey.port}) as network:
        yield network


@pytest.fixture
async def far(net: Network, near: Node) -> AsyncIterator[Node]:
    """A connection through the network, which has answered."""
    async with dial(net.port("redis")) as node:
        await node.command("PING")
        yield node


# Distance


async def test_a_delay_is_seen_on_the_wire_and_gone_afterwards(net: Network, far: Node) -> None:
    """A round trip takes the delay that was asked for; afterwards it does not."""
    with net.delayed(50):
        delayed_ms = [await round_trip_ms(far) for _ in range(5)]
    healed_ms = [await round_trip_ms(far) for _ in range(5)]

    assert min(delayed_ms) >= 50
    assert min(healed_ms) < 50


async def test_a_delay_is_no_bandwidth(net: Network) -> None:
    """Commands that leave together wait together, not one after the other."""
    async with dial(net.port("redis"), timeout_ms=60_000) as far:
        with net.delayed(200):
            began_s = time.perf_counter()
            await asyncio.gather(*(far.command("PING") for _ in range(1_000)))
            took_s = time.perf_counter() - began_s

    assert 0.2 <= took_s < 20


async def test_jitter_varies_the_delay(net: Network, far: Node) -> None:
    """Each round trip takes the delay and a part of the jitter, not always the same."""
    with net.delayed(10, jitter_ms=100):
        trips_ms = [await round_trip_ms(far) for _ in range(10)]

    assert min(trips_ms) >= 10
    assert max(trips_ms) - min(trips_ms) > 10


@pytest.mark.parametrize("jitter_ms", [0, 20])
async def test_what_is_delayed_keeps_its_order(net: Network, far: Node, jitter_ms: float) -> None:
    """What was sent in many pieces arrives in the order in which it was sent."""
    with net.delayed(10, jitter_ms):
        pushes = []
        for number in range(50):
            pushes.append(asyncio.create_task(far.command("RPUSH", "order", number)))
            await asyncio.sleep(0.001)  # each in a write of its own
        lengths = await asyncio.gather(*pushes)

    assert lengths == list(range(1, 51))
    assert await far.command("LRANGE", "order", 0, -1) == [str(number) for number in range(50)]


async def test_one_server_is_put_further_away_in_one_line(valkey: ServerNode) -> None:
    """`distant` is a network of one server and one delay, and leaves nothing."""
    with distant(valkey.port, delay_ms=50) as port:
        async with dial(port) as node:
            await node.command("PING")
            assert await round_trip_ms(node) >= 50

    with pytest.raises(ConnectionRefusedError):
        ask_redis(port, "PING")


async def test_a_fault_hits_only_the_links_that_are_named(net: Network, valkey: ServerNode) -> None:
    """A delay for one client to one server is none for the others, known before or not."""
    net.add("other", valkey.port)
    with net.delayed(5_000, client="ada", server={"redis"}):
        for client, server in (("ada", "other"), ("bob", "redis")):
            assert ask_redis(net.port(server, client), "PING", timeout_s=4) == "+PONG"
        with pytest.raises(TimeoutError):
            ask_redis(net.port("redis", "ada"), "PING", timeout_s=0.5)


# Loss


async def test_a_lost_reply_has_been_carried_out(net: Network, near: Node, far: Node) -> None:
    """The client hears nothing, the counter has gone up by one, and the wire shows the reply."""
    with net.replies_dropped():
        with pytest.raises(NodeSilent):
            await far.command("INCR", "counter")
        await eventually(lambda: saw(net.traffic("redis").dropped_replies_bytes > 0))

    assert await near.command("GET", "counter") == "1"
    assert net.traffic("redis").dropped_replies == (b":1\r\n",)
    assert net.traffic("redis").dropped_requests_bytes == 0


async def test_a_lost_request_is_never_carried_out(net: Network, near: Node, far: Node) -> None:
    """The client hears nothing, and the counter does not change, after the heal either."""
    with net.requests_dropped(), pytest.raises(NodeSilent):
        await far.command("INCR", "counter")

    await eventually(lambda: answers(far))
    assert await near.command("GET", "counter") is None
    assert b"INCR" in net.traffic("redis").dropped_requests[0]
    assert net.traffic("redis").dropped_replies_bytes == 0


@pytest.mark.parametrize("fault", [Network.requests_dropped, Network.replies_dropped])
def test_a_connection_that_lost_something_is_reset_at_the_heal(
    net: Network,
    fault: Callable[[Network], AbstractContextManager[None]],
    wait_until: Callable[[Callable[[], bool]], None],
) -> None:
    """It hears nothing while the fault lasts, and then a RST."""

    def has_lost() -> bool:
        traffic = net.traffic("redis")
        return traffic.dropped_requests_bytes + traffic.dropped_replies_bytes > 0

    with socket.create_connection(("127.0.0.1", net.port("redis"))) as client:
        with fault(net):
            client.sendall(b"PING\r\n")
            wait_until(has_lost)
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(100)
        client.settimeout(20)
        with pytest.raises(ConnectionResetError):
            client.recv(100)


async def test_after_a_loss_no_reply_is_taken_for_another(net: Network, far: Node) -> None:
    """The connection that lost something is reset, so the next reply is that of its command."""
    with net.replies_dropped():
        with pytest.raises(NodeSilent):
            await far.command("ECHO", "lost")
        await eventually(lambda: saw(net.traffic("redis").dropped_replies_bytes > 0))

    await eventually(lambda: answers(far))
    assert [await far.command("ECHO", word) for word in "abc"] == ["a", "b", "c"]
    assert net.traffic("redis").connections == 2


async def test_control_without_the_reset_a_reply_is_taken_for_another(
    net: Network, far: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a connection that goes on behind the gap, the next command waits for ever."""
    take = Stream.take

    def take_and_forget(stream: Stream, sent: bytes | Ending) -> None:
        take(stream, sent)
        stream._torn = False

    monkeypatch.setattr(Stream, "take", take_and_forget)
    with net.replies_dropped():
        with pytest.raises(NodeSilent):
            await far.command("ECHO", "lost")
        await eventually(lambda: saw(net.traffic("redis").dropped_replies_bytes > 0))

    with pytest.raises(NodeSilent):
        await far.command("ECHO", "a")
    assert net.traffic("redis").connections == 1


async def test_a_connection_that_lost_nothing_survives_the_fault(net: Network, far: Node) -> None:
    """Only what was torn is reset."""
    with net.replies_dropped(), net.requests_dropped():
        pass

    await far.command("PING")
    assert net.traffic("redis").connections == 1


async def test_a_reset_breaks_the_connections_of_the_moment(net: Network, near: Node) -> None:
    """A command in flight becomes indefinite at once, and the next connection works."""

    async def is_blocked() -> bool:
        return "blocked_clients:1" in await near.command("INFO", "clients")

    async def wait_for_nothing() -> None:
        with pytest.raises(NodeSilent, match="broke"):
            await patient.command("BLPOP", "nothing", 0)

    async with dial(net.port("redis"), 60_000) as patient, asyncio.TaskGroup() as tasks:
        tasks.create_task(wait_for_nothing())
        await eventually(is_blocked)
        net.reset(server="redis")
        await eventually(lambda: answers(patient))


def test_a_reset_is_a_reset_on_the_wire(net: Network) -> None:
    """The client's system is told by a RST, not by an end of file."""
    with socket.create_connection(("127.0.0.1", net.port("redis"))) as client:
        client.sendall(b"PING\r\n")
        assert client.recv(100) == b"+PONG\r\n"
        net.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(100)


async def test_a_refused_server_is_as_dead(net: Network, far: Node) -> None:
    """Connections break, new ones are refused by the system, and both end with the fault."""
    with net.refused():
        await eventually(lambda: is_down(far))
        with pytest.raises(ConnectionRefusedError):
            ask_redis(net.port("redis"), "PING")

    await eventually(lambda: answers(far))


# Partition


async def test_a_partition_lets_each_side_go_on_and_holds_what_crosses_it(
    leash: Leash, tmp_path: Path
) -> None:
    """Ada reaches her two of three servers, Bob the third; what they sent across comes later."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context(running(leash, tmp_path / name)) for name in "abc"}
        net = stack.enter_context(Network({name: servers[name].port for name in "abc"}))
        async with dial_all(net, ("ada", "bob"), "abc") as nodes:
            with net.partitioned({"ada", "a", "b"}, {"bob", "c"}):
                passed = net.traffic("c", "ada").requests_bytes
                outcomes = await asyncio.gather(
                    *(node.command("INCR", client) for (client, _), node in nodes.items()),
                    return_exceptions=True,
                )
                heard = {link for link, got in zip(nodes, outcomes, strict=True) if got == 1}
                assert heard == {("ada", "a"), ("ada", "b"), ("bob", "c")}
                assert all(isinstance(got, NodeSilent) for got in outcomes if got != 1)
                assert net.traffic("c", "ada").requests_bytes == passed
                assert ask_redis(servers["c"].port, "GET ada") == "$-1"

            for (client, server), node in nodes.items():
                await eventually(lambda node=node: answers(node))  # type: ignore[misc]  # mypy cannot infer a default
                assert ask_redis(servers[server].port, f"GET {client}", timeout_s=5) == "1"
                assert net.traffic(server, client).connections == 1


async def test_names_in_no_group_are_one_side(net: Network) -> None:
    """One name alone is cut from all the others, which hear of each other."""
    with net.partitioned("ada"):
        assert ask_redis(net.port("redis", "bob"), "PING", timeout_s=5) == "+PONG"
        with pytest.raises(TimeoutError):
            ask_redis(net.port("redis", "ada"), "PING", timeout_s=0.5)

    assert ask_redis(net.port("redis", "ada"), "PING", timeout_s=5) == "+PONG"


def test_a_new_connection_hangs_in_a_partition_and_is_served_after_it(net: Network) -> None:
    """What a connection of the time of the partition sent is answered after the heal."""
    with ExitStack() as partition:
        partition.enter_context(net.partitioned("client"))
        with socket.create_connection(("127.0.0.1", net.port("redis")), timeout=0.5) as client:
            client.sendall(b"PING\r\n")
            with pytest.raises(TimeoutError):
                client.recv(100)
            partition.close()
            client.settimeout(20)
            assert client.recv(100) == b"+PONG\r\n"


def test_names_that_make_no_sense_are_refused(net: Network) -> None:
    """A name on two sides, and a server that is not there, are told at once."""
    with (
        pytest.raises(ValueError, match="ada cannot be on two sides"),
        net.partitioned({"ada"}, {"ada", "redis"}),
    ):
        pass
    with pytest.raises(ValueError, match="No server is called rdis; there are: redis"):
        net.port("rdis")
    with pytest.raises(ValueError, match="No server is called rdis"), net.refused(server="rdis"):
        pass


@asynccontextmanager
async def dial_all(
    net: Network, clients: tuple[str, ...], servers: str
) -> AsyncIterator[dict[tuple[str, str], Node]]:
    """A connection of each client to each server, all of which have answered."""
    nodes = {
        (client, server): Node(
            f"redis://127.0.0.1:{net.port(server, client)}", timeout_ms=PATIENCE_MS
        )
        for client in clients
        for server in servers
    }
    try:
        await asyncio.gather(*(node.command("PING") for node in nodes.values()))
        yield nodes
    finally:
        await asyncio.gather(*(node.close() for node in nodes.values()))


async def is_down(node: Node) -> bool:
    try:
        await node.command("PING")
    except NodeDown:
        return True
    except NodeSilent:
        return False
    return False
