"""Listening to a channel on the connection that is shared with all commands."""

import pytest

from labshop.locks import Node
from labshop.stack.nodes import ServerNode
from tests.conftest import connected, eventually


async def test_a_message_is_heard_before_the_answers_to_later_commands(
    node: Node, either_server: ServerNode
) -> None:
    """Also by who listens on a connection that stands; each channel has its own listeners."""
    heard: list[tuple[str, str | None]] = []
    async with connected(either_server) as speaker:
        for channel in ("early", "both"):
            node.listen(channel, lambda it, channel=channel: heard.append((channel, it)))  # type: ignore[misc]
        node.listen("both", lambda it: heard.append(("twice", it)))
        await node.command("PING")
        for channel in ("early", "both", "nobody's"):
            await speaker.command("PUBLISH", channel, "news")

        assert await node.command("ECHO", "later") == "later"

    assert heard == [("early", "news"), ("both", "news"), ("twice", "news")]


async def test_who_listens_is_told_of_a_loss_and_hears_over_the_next_connection(
    node: Node, either_server: ServerNode
) -> None:
    """None says that messages may be lost; from the next answer on, nothing is."""
    heard: list[str | None] = []
    await node.ready()
    node.listen("channel", heard.append)
    async with connected(either_server) as speaker:
        await node.command("PING")
        await speaker.command("CLIENT", "KILL", "SKIPME", "yes")

        async def knows() -> bool:
            return heard == [None]

        await eventually(knows)
        await speaker.command("PUBLISH", "channel", "lost")
        await node.command("PING")
        await speaker.command("PUBLISH", "channel", "heard")
        await node.command("PING")

    assert heard == [None, "heard"]


@pytest.mark.parametrize("connects_first", [True, False])
async def test_a_channel_that_is_forbidden_shifts_no_answer(
    either_server: ServerNode, *, connects_first: bool
) -> None:
    """The refusal of a subscription is nobody else's answer: each command still gets its own."""
    async with connected(either_server) as admin:
        await admin.command(
            "ACL", "SETUSER", "narrow", "reset", "on", ">secret", "+@all", "&labshop:wake:*"
        )
        narrow = Node(f"redis://narrow:secret@127.0.0.1:{either_server.port}", timeout_ms=2_000)
        heard: list[str | None] = []
        try:
            if connects_first:
                await narrow.ready()
            narrow.listen("labshop:restock:x", heard.append)
            for number in range(5):
                assert await narrow.command("ECHO", str(number)) == str(number)
            await admin.command("PUBLISH", "labshop:restock:x", "news")
            assert await narrow.command("PING") == "PONG"
            assert not heard
        finally:
            await narrow.close()
            await admin.command("ACL", "DELUSER", "narrow")
