"""Fencing tokens: each is above all that were given out before, whatever the server forgot."""

import pytest

from labshop.locks import MultiLock, Node, SingleLock

FAR_AHEAD = 4_000_000_000_000_000
"""Microseconds since 1970, in the year 2096."""


async def fence_of(node: Node, *keys: str) -> int:
    async with MultiLock(SingleLock(node, key, ttl_ms=2_000) for key in keys).hold(
        wait_ms=0
    ) as lease:
        return lease.fence


@pytest.mark.parametrize("keys", [("a",), ("a", "b")])
async def test_a_server_whose_clock_went_back_counts_on(node: Node, keys: tuple[str, ...]) -> None:
    """Behind its own last number a server gives out that number and one more, never its time."""
    await node.command("SET", "lock:{a}:fence", FAR_AHEAD)

    assert await fence_of(node, *keys) == FAR_AHEAD + 1
    assert await fence_of(node, *keys) == FAR_AHEAD + 2


async def test_a_server_that_forgot_goes_on_by_its_clock(node: Node) -> None:
    """With an empty memory it gives out its time in microseconds, which is above every count."""
    seconds, microseconds = await node.command("TIME")

    assert await fence_of(node, "a") >= int(seconds) * 1_000_000 + int(microseconds)


async def test_one_of_several_is_above_the_newest_of_each(node: Node) -> None:
    """A lease on two keys has one number, above those of both, which then counts for both."""
    await node.command("SET", "lock:{a}:fence", FAR_AHEAD)
    await node.command("SET", "lock:{b}:fence", FAR_AHEAD + 10)

    assert await fence_of(node, "a", "b") == FAR_AHEAD + 11
    assert await fence_of(node, "a") == FAR_AHEAD + 12
    assert await fence_of(node, "b") == FAR_AHEAD + 12
