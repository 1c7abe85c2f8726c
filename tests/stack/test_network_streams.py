"""A network hands on every byte and every end, and nothing of it outlives its faults."""

import asyncio
import gc
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest

from labshop.locks import Node, NodeSilent
from labshop.stack.faults import Network
from labshop.stack.faults.conditions import Fault
from labshop.stack.faults.stream import QUEUE_BYTES
from labshop.stack.leash import Leash
from labshop.stack.nodes import ServerNode
from labshop.stack.probe import ask_redis
from tests.conftest import connected, eventually
from tests.stack.network_clients import answers, dial, round_trip_ms, running, saw

LARGE = 8 * 2**20


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


@pytest.fixture
def mortal(leash: Leash, tmp_path: Path) -> Iterator[ServerNode]:
    """A server of the test's own, to be killed."""
    with running(leash, tmp_path / "mortal") as server:
        yield server


# A thin wire, and much on it


async def test_a_drip_takes_its_time(net: Network, near: Node, far: Node) -> None:
    """A reply of 5,000 bytes at 10,000 bytes a second takes half a second, and is whole."""
    await near.command("SET", "page", "x" * 5_000)
    with net.dripping(10_000):
        began_s = time.perf_counter()
        page = await far.command("GET", "page")
        took_s = time.perf_counter() - began_s

    assert page == "x" * 5_000
    assert took_s >= 0.48


@pytest.mark.parametrize("slowed", [False, True])
async def test_a_large_value_arrives_whole_both_ways(
    net: Network, near: Node, slowed: bool
) -> None:
    """8 MB go there and come back unchanged, also when a drip is lifted in the middle."""
    value = os.urandom(LARGE // 2).hex()
    async with dial(net.port("redis"), timeout_ms=60_000) as far:
        async with lifted_in_the_middle(net, slowed):
            await far.command("SET", "large", value)
        async with lifted_in_the_middle(net, slowed):
            assert await far.command("GET", "large") == value
    assert await near.command("GET", "large") == value


@pytest.mark.parametrize("partitioned", [True, False])
def test_a_sender_is_held_back_and_nothing_is_lost(net: Network, partitioned: bool) -> None:
    """For a server that reads nothing only so much is kept; when it reads, all of that arrives."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        net.add("sink", listener.getsockname()[1])
        with socket.create_connection(("127.0.0.1", net.port("sink")), timeout=1) as client:
            with net.partitioned("sink") if partitioned else ExitStack():
                taken = send_until_stuck(client, 8 * QUEUE_BYTES)
            client.shutdown(socket.SHUT_WR)
            server, _ = listener.accept()
            with server:
                assert sum(map(len, iter(lambda: server.recv(2**20), b""))) == taken
    assert taken < 4 * QUEUE_BYTES


def test_a_reset_is_handed_on_as_a_reset(net: Network) -> None:
    """A client hears of its server's RST, and a server of its client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        net.add("rude", listener.getsockname()[1])
        for rude in (0, 1):
            client = socket.create_connection(("127.0.0.1", net.port("rude")), timeout=20)
            server, _ = listener.accept()
            server.settimeout(20)
            server.sendall(b"welcome")
            assert client.recv(100) == b"welcome"
            ends = [client, server]
            ends[rude].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            ends.pop(rude).close()
            with ends[0] as polite, pytest.raises(ConnectionResetError):
                polite.recv(100)


@pytest.mark.parametrize("delay_ms", [0, 100])
def test_the_end_of_one_way_is_handed_on_and_the_other_goes_on(
    net: Network, delay_ms: float, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    """A server that answers only after its client's end of file is heard to its own."""
    net.port("redis")
    open_before = open_files()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        net.add("late", listener.getsockname()[1])
        answering = threading.Thread(target=answer_at_the_end, args=(listener,))
        answering.start()
        with (
            net.delayed(delay_ms),
            socket.create_connection(("127.0.0.1", net.port("late")), timeout=20) as client,
        ):
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda: client.recv(100), b"")) == b"answer to question"
        answering.join()
    # The listener of the link stays, and no connection.
    wait_until(lambda: open_files() <= open_before + 1)


# Faults together, and their end


async def test_faults_overlap_and_end_in_any_order(net: Network, far: Node) -> None:
    """Of a delay and a partition, each stays when the other goes."""
    for first_out in ("partition", "delay"):
        faults = {"partition": ExitStack(), "delay": ExitStack()}
        faults["delay"].enter_context(net.delayed(50))
        faults["partition"].enter_context(net.partitioned("client"))
        faults.pop(first_out).close()
        if first_out == "partition":
            assert await round_trip_ms(far) >= 50
        else:
            with pytest.raises(NodeSilent):
                await far.command("PING")
        for last in faults.values():
            last.close()
        await eventually(lambda: answers(far))
        assert min([await round_trip_ms(far) for _ in range(5)]) < 50


FAULTS: dict[str, Callable[[Network], AbstractContextManager[None]]] = {
    "delayed": lambda net: net.delayed(60_000),
    "requests_dropped": Network.requests_dropped,
    "replies_dropped": Network.replies_dropped,
    "partitioned": lambda net: net.partitioned("client"),
    "dripping": lambda net: net.dripping(0.1),
    "refused": Network.refused,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_interrupt_in_the_body_heals(net: Network, fault: str) -> None:
    """Each fault that is left by KeyboardInterrupt is gone."""
    port = net.port("redis")

    def hang() -> None:
        with pytest.raises((TimeoutError, ConnectionRefusedError)):
            ask_redis(port, "PING", timeout_s=0.3)

    with pytest.raises(KeyboardInterrupt):
        interrupt(FAULTS[fault](net), after=hang)
    assert ask_redis(port, "PING", timeout_s=20) == "+PONG"


def test_a_second_interrupt_during_the_heal_does_not_prevent_it(net: Network) -> None:
    """What interrupts the wait for the heal does not stop the heal."""
    port, loop, me = net.port("redis"), net._board._loop, threading.get_ident()

    def interrupt_the_wait() -> None:
        while sys._current_frames()[me].f_code is not threading.Condition.wait.__code__:
            time.sleep(0.001)
        signal.pthread_kill(me, signal.SIGINT)
        time.sleep(0.05)  # the loop comes to the heal only after this

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupt(
                net.partitioned("client"),
                after=lambda: loop.call_soon_threadsafe(interrupt_the_wait),
            )
    finally:
        signal.signal(signal.SIGINT, before)

    assert ask_redis(port, "PING", timeout_s=20) == "+PONG"


def test_a_second_interrupt_before_the_heal_does_not_prevent_it(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt that comes before the heal is asked for lets it be asked for again."""
    port, heal = net.port("redis"), net._board.heal
    interrupts = [KeyboardInterrupt()]

    def heal_interrupted(fault: Fault) -> None:
        if interrupts:
            raise interrupts.pop()
        heal(fault)

    monkeypatch.setattr(net._board, "heal", heal_interrupted)
    with pytest.raises(KeyboardInterrupt):
        interrupt(net.partitioned("client"), after=lambda: None)
    assert ask_redis(port, "PING", timeout_s=20) == "+PONG"


def test_closing_heals_and_leaves_nothing(valkey: ServerNode) -> None:
    """With faults and connections open, closing ends the thread and every socket."""
    open_before, running_before = open_files(), threads()
    with Network({"redis": valkey.port}) as net, ExitStack() as faults:
        port = net.port("redis")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(b"PING\r\n")
            assert client.recv(100) == b"+PONG\r\n"
            faults.enter_context(net.delayed(60_000))
            client.sendall(b"PING\r\n")
            with socket.create_connection(("127.0.0.1", port), timeout=20) as other:
                faults.enter_context(net.partitioned("client"))
                other.sendall(b"PING\r\n")
                net.close()
                with pytest.raises(ConnectionResetError):
                    client.recv(100)

    assert threads() <= running_before
    assert open_files() <= open_before
    with pytest.raises(ConnectionRefusedError):
        ask_redis(port, "PING")
    with pytest.raises(RuntimeError, match="closed"):
        net.port("redis")


# Servers that come and go behind it


@pytest.mark.parametrize("partitioned", [False, True])
async def test_a_server_is_killed_and_comes_back_behind_it(
    mortal: ServerNode, partitioned: bool
) -> None:
    """Commands of its absence fail, and the same client goes on when it is back."""
    with Network({"mortal": mortal.port}) as net:
        async with dial(net.port("mortal")) as far:
            await far.command("SET", "stock", 100)
            with net.partitioned("client") if partitioned else ExitStack():
                mortal.kill()
                with pytest.raises(NodeSilent):
                    await far.command("INCR", "stock")
                mortal.restart()
            await eventually(lambda: answers(far))
            assert await far.command("GET", "stock") == "100"


def test_a_server_that_is_not_there_breaks_the_connection(mortal: ServerNode) -> None:
    """A client of a dead server is told by a reset, and does not hang."""
    with Network({"mortal": mortal.port}) as net:
        mortal.kill()
        with pytest.raises(ConnectionResetError):
            ask_redis(net.port("mortal"), "PING", timeout_s=20)


async def test_a_frozen_server_answers_after_its_thaw(mortal: ServerNode) -> None:
    """What was sent to it meanwhile is carried out, once."""
    with Network({"mortal": mortal.port}) as net:
        async with dial(net.port("mortal")) as far:
            await far.command("PING")
            mortal.freeze()
            with pytest.raises(NodeSilent):
                await far.command("INCR", "counter")
            mortal.thaw()
            await eventually(lambda: answers(far))
            assert await far.command("GET", "counter") == "1"
            assert net.traffic("mortal").connections == 1


@asynccontextmanager
async def lifted_in_the_middle(net: Network, slowed: bool) -> AsyncIterator[None]:
    """Drip while the body begins, and stop when a part of it has passed."""

    def passed_bytes() -> int:
        traffic = net.traffic("redis")
        return traffic.requests_bytes + traffic.replies_bytes

    async def drip() -> None:
        with net.dripping(200_000):
            dripping.set()
            await eventually(lambda: saw(passed_bytes() > at_first + 20_000))
            assert passed_bytes() < at_first + LARGE

    if not slowed:
        yield
        return
    at_first, dripping = passed_bytes(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(drip())
        await dripping.wait()
        yield


def interrupt(fault: AbstractContextManager[None], after: Callable[[], object]) -> None:
    """Leave a fault as a cell does whose kernel is interrupted."""
    with fault:
        after()
        raise KeyboardInterrupt


def threads() -> set[int | None]:
    """The threads of this process: a network of another test may have one."""
    return {thread.ident for thread in threading.enumerate()}


def open_files() -> int:
    gc.collect()
    return len(list(Path("/dev/fd").iterdir()))


def send_until_stuck(client: socket.socket, limit: int) -> int:
    """Send until the other side takes no more; returns how many bytes it took."""
    sent, piece = 0, bytes(2**16)
    try:
        while sent < limit:
            sent += client.send(piece)
    except TimeoutError:
        pass
    return sent


def answer_at_the_end(listener: socket.socket) -> None:
    """Serve one client: read all that it says, then answer."""
    connection, _ = listener.accept()
    with closing(connection):
        said = b"".join(iter(lambda: connection.recv(100), b""))
        connection.sendall(b"answer to " + said)
