"""Requests and replies that are lost, late or cut off: what was asked for is undone."""

import asyncio

import pytest

from labshop.locks import LockError, LockEvent, LockExpired, Node, NodeError, NoQuorum
from tests.conftest import eventually
from tests.locks.conftest import NAMES, SHORT_MS, Five, answered, holder_keys, is_heard, make_lock

HIT = {
    "single": ("n1",),
    "multi": ("n1",),
    "multi-nodes": ("n2",),
    "redlock": NAMES[:3],
}
"""The servers without which no lock of a kind can be had."""


async def test_a_lost_request_is_an_error_and_no_lock(kind: str, five: Five) -> None:
    """What never reached the server is not granted, and does no harm when all is well again."""
    nodes = five.process(timeout_ms=SHORT_MS, client="here")
    await asyncio.gather(*map(is_heard, nodes))
    with five.network.requests_dropped(client="here", server=HIT[kind]):
        with pytest.raises((NodeError, NoQuorum)):
            await make_lock(kind, nodes, ttl_ms=60_000).acquire(wait_ms=0)
        if kind != "redlock":
            assert await five.is_empty()

    assert await five.is_left_empty_by(*nodes)
    await (await make_lock(kind, nodes).acquire(wait_ms=0)).release()


@pytest.mark.parametrize("protected", [True, False], ids=["undone", "control"])
async def test_a_lost_reply_leaves_no_orphan(
    kind: str, five: Five, monkeypatch: pytest.MonkeyPatch, *, protected: bool
) -> None:
    """A grant whose reply was lost is taken back over the next connection.

    Control: without the undoing, it blocks everybody for its time to live.
    """
    nodes = five.process(timeout_ms=SHORT_MS, client="here")
    await asyncio.gather(*map(is_heard, nodes))
    if not protected:
        monkeypatch.setattr(Node, "post", lambda *_, **__: answered())
    with five.network.replies_dropped(client="here", server=HIT[kind]):
        with pytest.raises((NodeError, NoQuorum)):
            await make_lock(kind, nodes, ttl_ms=60_000).acquire(wait_ms=0)
        if not protected:
            assert await five.keys()  # the unsafe moment is real

    assert await five.is_left_empty_by(*nodes) is protected


async def test_a_lost_reply_is_undone_although_the_caller_never_comes_back(
    kind: str, five: Five
) -> None:
    """The undoing travels with any next command of the process, not with the lock's."""
    nodes = five.process(timeout_ms=SHORT_MS, client="here")
    await asyncio.gather(*map(is_heard, nodes))
    with five.network.replies_dropped(client="here", server=HIT[kind]):
        with pytest.raises((NodeError, NoQuorum)):
            await make_lock(kind, nodes, ttl_ms=60_000).acquire(wait_ms=0)
        # Behind the grant on the same connections, which still stand: it is undone already.
        await eventually(five.is_empty)


async def test_a_reply_after_the_deadline_is_no_grant(kind: str, five: Five) -> None:
    """A reply that is later than the node's deadline counts as none, and the grant is undone."""
    nodes = five.process(timeout_ms=SHORT_MS, client="here")
    await asyncio.gather(*map(is_heard, nodes))
    with (
        five.network.delayed(1.5 * SHORT_MS, client="here", server=HIT[kind]),
        pytest.raises((NodeError, NoQuorum)) as failure,
    ):
        await make_lock(kind, nodes, ttl_ms=60_000).acquire(wait_ms=0)

    assert await five.is_left_empty_by(*nodes)

    if isinstance(failure.value, NodeError):
        assert not failure.value.definite


async def test_a_reply_after_the_end_of_the_lease_is_no_grant(kind: str, five: Five) -> None:
    """A grant that arrives when its time is over is never handed out, and is not held."""
    nodes = five.process(client="here")
    await asyncio.gather(*map(is_heard, nodes))
    with (
        five.network.delayed(300, client="here", server=HIT[kind]),
        pytest.raises(LockExpired) as late,
    ):
        await make_lock(kind, nodes, ttl_ms=200).acquire(wait_ms=0)

    assert late.value.elapsed_ms >= 200
    assert late.value.ttl_ms == 200
    assert await five.is_left_empty_by(*nodes)
    assert not any(len(node.turns) for node in nodes)


@pytest.mark.parametrize("dropped", ["requests", "replies"])
@pytest.mark.parametrize("protected", [True, False], ids=["owed", "control"])
async def test_a_release_that_is_lost_is_sent_again(
    kind: str, five: Five, dropped: str, *, protected: bool
) -> None:
    """A release that was not answered is abandoned, and delivered by the next connection.

    Control: where it is not owed, what never arrived leaves the lock held.
    """
    nodes = five.process(timeout_ms=SHORT_MS, client="here")
    events: list[LockEvent] = []
    lock = make_lock(kind, nodes, ttl_ms=60_000, on_event=events.append)
    network = five.network
    fault = network.requests_dropped if dropped == "requests" else network.replies_dropped
    await asyncio.gather(*map(is_heard, nodes))
    holding = lock.hold(wait_ms=0)
    await holding.__aenter__()
    await eventually(lambda: are_all_granted(five, kind))
    with fault(client="here", server=HIT[kind]):
        await holding.__aexit__(None, None, None)  # no error: what the body did stands
        if dropped == "requests":
            assert await five.keys()
    if not protected:
        await eventually(lambda: are_cut(nodes, kind))
        for node in nodes:
            node._owed.clear()

    was_delivered = await five.is_left_empty_by(*nodes)

    assert "abandoned" in {event.kind for event in events}
    assert was_delivered is (protected or dropped == "replies")


@pytest.mark.parametrize("turns", range(0, 40, 4))
async def test_a_reset_in_the_middle_leaves_nothing(kind: str, five: Five, turns: int) -> None:
    """However far acquiring and releasing have come when all connections break, nothing is left."""
    nodes = five.process(client="here")

    async def visit() -> None:
        async with make_lock(kind, nodes, ttl_ms=60_000).hold(wait_ms=0):
            pass

    for _ in range(5):
        await asyncio.gather(*map(is_heard, nodes))
        visiting = asyncio.create_task(visit())
        for _ in range(turns):
            await asyncio.sleep(0)
        five.network.reset(client="here")
        try:
            await visiting
        except LockError as error:
            assert isinstance(error, NodeError | NoQuorum)  # noqa: PT017  # it may also succeed

    assert await five.is_left_empty_by(*nodes)
    assert not any(len(node.turns) for node in nodes)


async def are_all_granted(five: Five, kind: str) -> bool:
    return await five.keys() == holder_keys(kind)


async def are_cut(nodes: tuple[Node, ...], kind: str) -> bool:
    hit = (node for node, name in zip(nodes, NAMES, strict=True) if name in HIT[kind])
    return not any(node.is_connected for node in hit)
