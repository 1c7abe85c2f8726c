"""Several processes, one of which leads: it is killed, or stands still and comes back too late."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from labshop.api.shop import Shop
from labshop.stack.leash import Leash
from labshop.stack.nodes import ServerNode
from labshop.storage.comparison import Place
from tests.api.process import ApiProcess
from tests.conftest import SECRET, eventually
from tests.ops.conftest import PRODUCT, STOCK, comparison_of, plant

LEFT = Place("left", PRODUCT)
LEASE_MS = 600
HEARD_WITHIN_S = 20.0

Process = asyncio.subprocess.Process
Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(stores: Shop, valkey: ServerNode) -> AsyncIterator[Start]:
    """Start processes that lead and repair; see `tests.ops.leader`."""
    started: list[Process] = []

    async def start(*protection: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.ops.leader", valkey.url),
            *(stores.settings.ledger_url(), str(LEASE_MS), *protection),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def heard(process: Process) -> str:
    """The next thing that a process says; its log does not count."""
    assert process.stdout is not None
    async with asyncio.timeout(HEARD_WITHIN_S):
        while True:
            line = (await process.stdout.readline()).decode().strip()
            assert line, "the process has ended"
            if not re.match(r"\d{4}-\d\d-\d\d ", line):
                return line


def let_go_on(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


async def fence_of(process: Process) -> int:
    """The fence under which it begins to lead."""
    word, fence = (await heard(process)).split()
    assert word == "leads"
    return int(fence)


async def left(stores: Shop) -> int:
    return await stores.inventory.left(PRODUCT)


@pytest.mark.parametrize("protection", ["fenced", "unfenced"])
async def test_a_leader_that_stood_still_repairs_too_late(
    stores: Shop, start: Start, protection: str
) -> None:
    """Stopped before its addition, replaced, and thawed: its fence is stale, and nothing is added.

    Control: without the comparison of the fence the same units are added twice.
    """
    await plant(stores, LEFT, -3)
    old = await start(protection)
    old_fence = await fence_of(old)
    assert await heard(old) == "adds"
    old.send_signal(signal.SIGSTOP)

    new = await start()
    assert await fence_of(new) > old_fence
    assert await heard(new) == "adds"
    let_go_on(new)
    assert await heard(new) == "repaired"
    assert await left(stores) == STOCK
    new.kill()
    await new.wait()

    old.send_signal(signal.SIGCONT)
    let_go_on(old)

    fenced = protection == "fenced"
    while (answer := await heard(old)).startswith("leads"):
        pass  # the lock was free again
    assert answer == ("stale" if fenced else "repaired")
    assert await left(stores) == (STOCK if fenced else STOCK + 3)


async def test_a_leader_that_was_killed_is_followed_once_its_lease_is_over(
    stores: Shop, start: Start
) -> None:
    """Killed between decision and addition: the next leader finds the same, and repairs it."""
    await plant(stores, LEFT, -3)
    old = await start()
    old_fence = await fence_of(old)
    new = await start()
    assert await heard(old) == "adds"
    old.kill()

    assert await fence_of(new) > old_fence
    assert await heard(new) == "adds"
    let_go_on(new)
    assert await heard(new) == "repaired"
    assert await left(stores) == STOCK


@pytest.fixture
def apis(
    stores: Shop, valkey: ServerNode, leash: Leash, tmp_path: Path
) -> Iterator[list[ApiProcess]]:
    """Two API processes on the same stores."""
    started = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        started.append(
            ApiProcess(
                leash,
                tmp_path / name,
                gate_url=valkey.url,
                secret=SECRET,
                database_url=stores.settings.ledger_url(),
                compare_interval_ms=100,
                leader_lease_ms=LEASE_MS,
            )
        )
    yield started
    for api in started:
        api.kill()


async def told(api: ApiProcess, series: str) -> float:
    """A number that a process tells Prometheus."""
    async with api.client() as client:
        text = (await client.get("/metrics")).text
    [value] = re.findall(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(value)


async def leaders(apis: list[ApiProcess]) -> list[ApiProcess]:
    return [api for api in apis if await told(api, "labshop_scheduler_leader") == 1]


async def test_of_two_api_processes_one_repairs(stores: Shop, apis: list[ApiProcess]) -> None:
    """One leads, and repairs once what is wrong; when it is killed, the other one does."""
    repairs = 'labshop_mismatches_repaired_total{kind="left"}'

    async def both_sell() -> bool:
        return all([await api.sells() for api in apis]) and len(await leaders(apis)) == 1

    async def is_sound() -> bool:
        return await left(stores) == STOCK

    await eventually(both_sell, within_s=60)
    [first] = await leaders(apis)
    [second] = [api for api in apis if api is not first]
    await plant(stores, LEFT, -3)
    await eventually(is_sound)

    async def counted() -> bool:
        return await told(first, repairs) == 1

    await eventually(counted)
    assert await told(second, repairs) == 0
    async with first.client() as client:
        answer = (await client.get("/readyz")).json()
    assert answer["leader"] is True
    assert answer["compared_ms_ago"] < 10_000

    first.kill()
    await plant(stores, LEFT, 2)
    await eventually(is_sound)
    assert await leaders([second]) == [second]
    assert (await comparison_of(stores).look()).drifts == {}
