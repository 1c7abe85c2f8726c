"""A task that is cancelled at any await leaves no lock, no place in a queue, and no turn."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from labshop.locks import HeldLease, LockLost, Node
from tests.locks.conftest import AnyLock, Five, answered, make_lock

TRIES, AT_ONCE = 1_000, 40
TURNS = 40
"""Of the event loop, before a task is cancelled: none to so many, each equally often."""
TTL_MS = 60_000
"""An orphan outlives its test."""


class Try:
    """One task that is cancelled somewhere on its way."""

    def __init__(self, here: AnyLock, there: AnyLock, turns: int) -> None:
        self.here, self.there = here, there
        self._turns = turns
        self.got_through = False

    async def hold(self) -> None:
        """Hold it for ever."""
        async with self.here.hold(wait_ms=TTL_MS):
            self.got_through = True
            await asyncio.Event().wait()

    async def cut(self, task: "asyncio.Task[None]") -> None:
        """Cancel a task after some turns of the loop."""
        for _ in range(self._turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def acquiring(one: Try) -> None:
    """On the way to a free lock, or in its body, or on the way out."""
    await one.cut(asyncio.create_task(one.hold()))


async def waiting_for(one: Try, holder: HeldLease) -> None:
    waiter = asyncio.create_task(one.hold())
    for _ in range(one._turns % 3):  # with its request on its way, or before
        await asyncio.sleep(0)
    await asyncio.gather(one.cut(waiter), holder.release())


async def in_the_local_queue(one: Try) -> None:
    """Behind a holder of the same process, which leaves in the same moment."""
    await waiting_for(one, await one.here.acquire(wait_ms=TTL_MS))


async def in_the_queue_in_redis(one: Try) -> None:
    """Behind a holder of another process, which leaves in the same moment."""
    await waiting_for(one, await one.there.acquire(wait_ms=TTL_MS))


async def extending(one: Try) -> None:
    """While the lease is being prolonged."""
    lease = await one.here.acquire(wait_ms=TTL_MS)

    async def extend() -> None:
        await lease.extend(2 * TTL_MS)
        one.got_through = True

    await one.cut(asyncio.create_task(extend()))
    await lease.release()


async def releasing(one: Try) -> None:
    """While the lock is being left."""
    leaving = asyncio.Event()

    async def visit() -> None:
        async with one.here.hold(wait_ms=TTL_MS):
            leaving.set()
        one.got_through = True

    visiting = asyncio.create_task(visit())
    await leaving.wait()
    await one.cut(visiting)


MOMENTS: list[Callable[[Try], Awaitable[None]]] = [
    acquiring,
    in_the_local_queue,
    in_the_queue_in_redis,
    extending,
    releasing,
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda it: it.__name__)
async def test_a_thousand_cancelled_tasks_leave_nothing(
    kind: str, five: Five, moment: Callable[[Try], Awaitable[None]]
) -> None:
    """Cancelled in any turn of the loop, before and after it got through, none leaves an orphan."""
    here, there = five.process(), five.process()

    tried = await cut_many(kind, here, there, moment, TRIES)

    assert {one.got_through for one in tried} == {True, False}
    assert await five.is_left_empty_by(*here, *there)
    assert not any(len(node.turns) or node._wakes for node in (*here, *there))


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda it: it.__name__)
async def test_control_without_the_undoing_there_are_orphans(
    kind: str, five: Five, monkeypatch: pytest.MonkeyPatch, moment: Callable[[Try], Awaitable[None]]
) -> None:
    """Control: where a task that ends otherwise than by its end sends nothing, locks stay."""
    here, there = five.process(), five.process()
    posted = Node.post

    def post(node: Node, *parts: Any, **options: Any) -> Any:
        """This process never cleans up."""
        return answered() if node in here else posted(node, *parts, **options)

    monkeypatch.setattr(Node, "post", post)

    await cut_many(kind, here, there, moment, TRIES // 4)

    assert await five.keys()


async def cut_many(
    kind: str,
    here: tuple[Node, ...],
    there: tuple[Node, ...],
    moment: Callable[[Try], Awaitable[None]],
    tries: int,
) -> list[Try]:
    """Let as many tasks be cancelled, some at once; each has a lock of its own."""
    for node in (*here, *there):
        await node.ready()
    tried: list[Try] = []
    for first in range(0, tries, AT_ONCE):
        wave = [
            Try(
                make_lock(kind, here, key=f"door {number}", ttl_ms=TTL_MS),
                make_lock(kind, there, key=f"door {number}", ttl_ms=TTL_MS),
                turns=number % TURNS,
            )
            for number in range(first, first + AT_ONCE)
        ]
        ends = await asyncio.gather(*(moment(one) for one in wave), return_exceptions=True)
        unforeseen = [end for end in ends if end is not None and not isinstance(end, LockLost)]
        assert not unforeseen
        tried += wave
    return tried
