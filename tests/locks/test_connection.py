"""The ordered connection: one reply per command, whatever happens to the wire."""

import asyncio
from pathlib import Path

import pytest

from labshop.locks import Node, NodeDown, NodeRefused, NodeSilent
from labshop.lua import load_script
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from labshop.stack.ports import free_port
from tests.conftest import eventually


async def test_replies_find_their_commands(node: Node) -> None:
    """A thousand commands of as many tasks each get their own reply."""
    replies = await asyncio.gather(*(node.command("ECHO", str(n)) for n in range(1_000)))

    assert replies == [str(n) for n in range(1_000)]


async def test_commands_are_carried_out_in_the_order_of_their_issue(node: Node) -> None:
    """Tasks that start in order are served in order, over one connection."""
    await asyncio.gather(*(node.command("RPUSH", "list", n) for n in range(200)))

    assert await node.command("LRANGE", "list", 0, -1) == [str(n) for n in range(200)]
    clients = await node.command("CLIENT", "LIST")
    assert clients.count("\n") <= 2  # this one, and one of the fixture that emptied the server


async def test_an_error_reply_is_definite(node: Node) -> None:
    """An error that the server answers is raised with its text, and the next command works."""
    with pytest.raises(NodeRefused, match="wrong number of arguments") as refusal:
        await node.command("GET")

    assert refusal.value.definite
    assert await node.command("PING") == "PONG"


async def test_nobody_listens_there() -> None:
    """A server that is not there is a definite failure: nothing was sent."""
    nowhere = Node(f"redis://127.0.0.1:{free_port()}", timeout_ms=500)

    with pytest.raises(NodeDown) as refusal:
        await nowhere.command("PING")

    assert refusal.value.definite


async def test_one_deadline_for_all_who_wait_for_a_connection() -> None:
    """A server that accepts and says nothing costs ten commands one deadline, not ten."""
    accepted: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    node = Node(f"redis://:password@127.0.0.1:{port}", timeout_ms=200)

    async with asyncio.timeout(1.5):
        outcomes = await asyncio.gather(
            *(node.command("PING") for _ in range(10)), return_exceptions=True
        )

    assert {type(outcome) for outcome in outcomes} == {NodeDown}
    silent.close()
    for writer in accepted:
        writer.transport.abort()


async def test_a_rest_is_no_silence(either_server: ServerNode, node: Node) -> None:
    """After a long rest, one late reply does not cost the connection, nor the undoing behind it."""
    hasty = Node(either_server.url, timeout_ms=20)
    await hasty.command("PING")
    await asyncio.sleep(0.3)  # ten deadlines and more, in which nothing was asked
    either_server.freeze()
    try:
        with pytest.raises(NodeSilent):
            await hasty.command("PING")
        assert hasty._wire is not None
        assert not hasty._wire.closed
    finally:
        either_server.thaw()

    await hasty.close()


async def test_a_connection_that_is_deaf_and_full_is_dialled_anew(
    either_server: ServerNode, node: Node
) -> None:
    """A half-open connection whose backlog is full does not refuse for ever."""
    small = Node(either_server.url, timeout_ms=20, backlog=3)
    await small.command("PING")
    wire = small._wire
    assert wire is not None
    wire.data_received = lambda data: None  # type: ignore[method-assign]  # its replies are lost

    async def answers() -> bool:
        try:
            return bool(await small.command("PING") == "PONG")
        except (NodeSilent, NodeDown):
            return False

    await asyncio.gather(*(answers() for _ in range(6)))
    await eventually(answers)
    await small.close()


async def test_a_late_reply_is_dropped_and_never_given_to_another(
    either_server: ServerNode, node: Node
) -> None:
    """After a timeout, the next command gets its own reply, not the late one."""
    hasty = Node(either_server.url, timeout_ms=100)
    await hasty.command("PING")
    either_server.freeze()
    try:
        with pytest.raises(NodeSilent) as silence:
            await hasty.command("ECHO", "late")
    finally:
        either_server.thaw()

    assert not silence.value.definite
    assert await hasty.command("ECHO", "own") == "own"
    await hasty.close()


async def test_a_bounded_number_of_commands_waits(either_server: ServerNode, node: Node) -> None:
    """While a server hangs, commands above the backlog are refused at once."""
    small = Node(either_server.url, timeout_ms=300, backlog=5)
    await small.command("PING")
    either_server.freeze()
    try:
        outcomes = await asyncio.gather(
            *(small.command("PING") for _ in range(8)), return_exceptions=True
        )
    finally:
        either_server.thaw()

    assert [type(outcome) for outcome in outcomes] == [NodeSilent] * 5 + [NodeDown] * 3
    await small.close()


async def test_a_broken_connection_leaves_commands_unknown_and_dials_anew(node: Node) -> None:
    """A connection that the server cuts fails what was in flight; the next command works."""
    stuck = asyncio.create_task(node.command("BLPOP", "nothing", 0))
    await eventually(lambda: is_blocked(node, stuck))

    assert await node_cut(node) >= 1
    with pytest.raises(NodeSilent, match="connection broke"):
        await stuck
    assert await node.command("PING") == "PONG"


async def is_blocked(node: Node, task: "asyncio.Task[object]") -> bool:
    helper = Node(f"redis://{node.name}", timeout_ms=2_000)
    info = await helper.command("INFO", "clients")
    await helper.close()
    return "blocked_clients:1" in info and not task.done()


async def node_cut(node: Node) -> int:
    helper = Node(f"redis://{node.name}", timeout_ms=2_000)
    cut = await helper.command("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
    await helper.close()
    return int(cut)


async def test_a_server_that_speaks_unasked_is_left(tmp_path: Path, leash: Leash) -> None:
    """Turned away at the door (too many clients), a command fails, and the next one dials anew."""
    server = ServerNode(NodeSpec("full", "lock"), find_server(None), tmp_path, leash)
    server.start()
    try:
        first, second = (Node(server.url, timeout_ms=2_000) for _ in range(2))
        await first.command("CONFIG", "SET", "maxclients", "1")
        with pytest.raises((NodeRefused, NodeSilent, NodeDown)):
            await second.command("PING")
        await first.command("CONFIG", "SET", "maxclients", "100")

        assert await second.command("PING") == "PONG"
        await first.close()
        await second.close()
    finally:
        server.kill()


async def test_a_script_is_posted_behind_what_was_sent_before(node: Node) -> None:
    """A posted release is carried out after the SET before it, and before the GET after it."""
    release = load_script("labshop.locks", "release_lock")
    await node.command("PING")
    setting = asyncio.create_task(node.command("SET", "key", "token"))
    await asyncio.sleep(0)

    node.post(release, ["key"], ["token"])

    assert await node.command("GET", "key") is None
    await setting


async def test_what_is_posted_without_a_connection_is_the_first_on_the_next(node: Node) -> None:
    """After a broken connection, the clean-up goes ahead of the command that dials anew."""
    await node.command("SET", "key", "token")
    await node.close()

    node.post(load_script("labshop.locks", "release_lock"), ["key"], ["token"])

    assert await node.command("GET", "key") is None


async def test_a_password_is_given_and_a_wrong_one_refused(tmp_path: Path, leash: Leash) -> None:
    """The URL's password opens the server; another one is a definite failure."""
    server = ServerNode(NodeSpec("guarded", "lock"), find_server(None), tmp_path, leash)
    server.start()
    try:
        open_node = Node(server.url, timeout_ms=2_000)
        await open_node.command("CONFIG", "SET", "requirepass", "p@ss")
        await open_node.close()
        good = Node(server.url.replace("//", "//:p%40ss@") + "/3", timeout_ms=2_000)
        bad = Node(server.url.replace("//", "//:wrong@"), timeout_ms=2_000)

        assert await good.command("PING") == "PONG"
        assert "db=3" in await good.command("CLIENT", "INFO")
        with pytest.raises(NodeDown, match="WRONGPASS"):
            await bad.command("PING")
        await good.close()
    finally:
        server.kill()
