"""A quorum under every combination of dead nodes, and with nodes that hang."""

import asyncio
from contextlib import suppress

import pytest

from labshop.locks import LockTimeout, NoQuorum
from labshop.locks.ballot import Ballot
from labshop.stack.probe import ask_redis
from tests.conftest import eventually
from tests.locks.conftest import NAMES, SHORT_MS, Five, answered, redlock

ALL = range(len(NAMES))


def dead_in(mask: int) -> list[int]:
    """Which nodes are dead in a mask."""
    return [number for number in ALL if mask >> number & 1]


def one_change_each() -> list[int]:
    """All masks, each different from the last one by one node (a Gray code)."""
    return [number ^ number >> 1 for number in range(2 ** len(NAMES))]


async def test_it_is_granted_by_a_majority_and_by_nothing_less(five: Five) -> None:
    """Of 32 masks of dead nodes, those with three alive or more grant; the others name the dead."""
    masks = one_change_each()
    assert sorted(masks) == list(range(32))
    seen: dict[int, set[str] | None] = {}
    nodes = five.process()
    for mask in masks:
        kill_and_revive(five, mask)
        try:
            lease = await redlock(nodes).acquire(wait_ms=0)
        except NoQuorum as refusal:
            seen[mask] = set(refusal.nodes)
        else:
            seen[mask] = None
            await eventually(lambda mask=mask: is_held_on(five, len(ALL) - len(dead_in(mask))))  # type: ignore[misc]  # its default
            await lease.release()
        alive = [node for node, server in zip(nodes, five.servers, strict=True) if server.alive]
        assert await five.is_left_empty_by(*alive)

    names = [f"127.0.0.1:{server.port}" for server in five.servers]
    assert seen == {
        mask: {names[number] for number in dead_in(mask)} if len(dead_in(mask)) >= 3 else None
        for mask in masks
    }


async def test_a_minority_of_others_does_not_matter(five: Five) -> None:
    """Votes that others hold count like dead nodes: with two of them it is granted, with three
    it is contended, and no node is blamed.
    """
    for number in (0, 1):
        await five.outside[number].command("SET", "lock:{door}", "another")
    await (await redlock(five.process()).acquire(wait_ms=0)).release()
    await five.outside[2].command("SET", "lock:{door}", "another")

    with pytest.raises(LockTimeout):
        await redlock(five.process()).acquire(wait_ms=0)

    await eventually(lambda: is_held_on(five, 3))
    assert await five.tokens() == ["another"] * 3 + [""] * 2


@pytest.mark.parametrize("quorum", [3, 2], ids=["majority", "control"])
async def test_two_halves_cannot_both_hold_it(
    five: Five, monkeypatch: pytest.MonkeyPatch, quorum: int
) -> None:
    """Two clients that reach two nodes each hold nothing; control: a quorum of 2 grants both."""
    if quorum == 2:
        ask_all = Ballot.__post_init__

        def ask_all_of_two(ballot: Ballot) -> None:
            ask_all(ballot)
            ballot.quorum = 2

        monkeypatch.setattr(Ballot, "__post_init__", ask_all_of_two)
    network, granted = five.network, []
    sides = {"left": NAMES[:2], "right": NAMES[2:4]}
    for client, reached in sides.items():
        nodes = five.process(timeout_ms=SHORT_MS, client=client)
        cut_off = [name for name in NAMES if name not in reached]
        with network.refused(client=client, server=cut_off), suppress(NoQuorum):
            granted.append(await redlock(nodes).acquire(wait_ms=0))

    assert len(granted) == (0 if quorum == 3 else 2)


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "new"])
@pytest.mark.parametrize("hung", [1, 2])
async def test_hung_nodes_are_not_waited_for(five: Five, hung: int, *, connected: bool) -> None:
    """A majority decides in no time while one or two nodes hang, whether they were connected."""
    nodes = five.process(timeout_ms=5_000)
    if connected:
        await (await redlock(nodes).acquire(wait_ms=0)).release()
    for server in five.servers[:hung]:
        server.freeze()

    async with asyncio.timeout(1):
        for _ in range(20):
            await (await redlock(nodes, ttl_ms=60_000).acquire(wait_ms=0)).release()
    for server in five.servers:
        server.thaw()

    assert await five.is_left_empty_by(*nodes)  # also on those that woke up


@pytest.mark.parametrize("protected", [True, False], ids=["undone", "control"])
async def test_three_hung_nodes_are_no_quorum_and_hold_nothing_later(
    five: Five, monkeypatch: pytest.MonkeyPatch, *, protected: bool
) -> None:
    """With three hung there is no majority in time; awake, they have voted and are undone.

    Control: without taking votes back, they hold a lock that nobody has.
    """
    nodes = five.process(timeout_ms=SHORT_MS)
    for node in nodes:
        await node.ready()
    if not protected:
        for node in nodes:
            monkeypatch.setattr(node, "post", lambda *_, **__: answered())
    for server in five.servers[:3]:
        server.freeze()
    with pytest.raises(NoQuorum) as refusal:
        await redlock(nodes, ttl_ms=60_000).acquire(wait_ms=0)
    for server in five.servers:
        server.thaw()

    assert (refusal.value.quorum, refusal.value.definite) == (3, True)
    assert set(refusal.value.nodes) == {node.name for node in nodes[:3]}
    assert all("no reply within" in reason for reason in refusal.value.nodes.values())
    assert await five.is_left_empty_by(*nodes) is protected


def kill_and_revive(five: Five, mask: int) -> None:
    """Let exactly the nodes of a mask be dead."""
    for number, server in enumerate(five.servers):
        if mask >> number & 1:
            server.kill()
        elif not server.alive:
            server.restart()
            # With ``everysec``, a write can wait in the server behind an fsync: killed just then,
            # it comes back with a lock whose release it had answered.
            ask_redis(server.port, "FLUSHALL")


async def is_held_on(five: Five, count: int) -> bool:
    return await five.keys() == ["lock:{door}"] * count
