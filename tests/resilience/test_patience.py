"""One timer for all who are equally patient."""

import asyncio

import pytest

from labshop.resilience import Patience


async def test_whoever_overstays_is_told_so_and_nobody_else() -> None:
    """Of two bodies, the one that never ends gets TimeoutError; the other one's result stands."""
    patience = Patience(0.05)

    async def stay() -> None:
        with patience.limit():
            await asyncio.Event().wait()

    async def go() -> str:
        with patience.limit():
            return "done"

    stays, goes = await asyncio.gather(stay(), go(), return_exceptions=True)

    assert isinstance(stays, TimeoutError)
    assert goes == "done"


async def test_each_is_due_by_its_own_beginning() -> None:
    """Bodies expire in the order in which they began, though one timer serves them."""
    patience, order = Patience(0.05), list[int]()

    async def stay(number: int) -> None:
        try:
            with patience.limit():
                await asyncio.Event().wait()
        except TimeoutError:
            order.append(number)

    async with asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(stay(number))
            await asyncio.sleep(0)

    assert order == [0, 1, 2, 3, 4]


async def test_a_cancellation_from_elsewhere_passes() -> None:
    """Who is cancelled within its time is cancelled, and has not timed out."""
    patience, began = Patience(60), asyncio.Event()

    async def stay() -> None:
        with patience.limit():
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stay())
    await began.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_an_error_of_the_body_passes() -> None:
    """What the body raises is what its caller gets, a TimeoutError of its own too."""
    limit = Patience(60).limit()

    with pytest.raises(TimeoutError, match="mine"), limit:
        raise TimeoutError("mine")

    assert not limit.has_expired


async def test_an_inner_limit_is_not_the_outer_ones() -> None:
    """Of two limits within each other, the one that is over ends its own body only."""
    outer, inner = Patience(60), Patience(0.05)

    with outer.limit() as limit, pytest.raises(TimeoutError), inner.limit():
        await asyncio.Event().wait()

    assert not limit.has_expired


async def test_the_line_is_left_empty() -> None:
    """Who has ended in time is not kept until the time is over."""
    patience = Patience(60)

    for _ in range(100):
        with patience.limit():
            pass

    assert not patience._line


async def test_control_without_a_task_there_is_nothing_to_end() -> None:
    """Control: a callback of the loop has no task, and is refused rather than not limited."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[BaseException | None] = loop.create_future()

    def callback() -> None:
        try:
            with Patience(1).limit():
                told.set_result(None)
        except RuntimeError as refusal:
            told.set_result(refusal)

    loop.call_soon(callback)

    assert isinstance(await told, RuntimeError)
