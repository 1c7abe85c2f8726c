"""`labshop reconcile`: one comparison by hand, what it says, and how it ends."""

import asyncio
import os
import sys

from labshop.api.shop import Shop
from labshop.clock import SystemClock
from labshop.ops.scheduler import leader_lock
from labshop.storage.comparison import Place
from tests.ops.conftest import PRODUCT, STOCK, plant

LEFT = Place("left", PRODUCT)


async def reconcile(stores: Shop) -> tuple[int | None, str]:
    """Exit code and output of the command."""
    settings = stores.settings
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "labshop.cli", "reconcile"),
        env=os.environ
        | {
            "LABSHOP_HOME": str(settings.home),
            "LABSHOP_GATE_URL": f"redis://{stores.node.name}",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_it_repairs_where_nobody_else_does(stores: Shop) -> None:
    """Each mismatch is printed, repaired; gate and ledger agree, and the exit code is 0."""
    await plant(stores, LEFT, -3)
    await plant(stores, Place("held", 2), 1)

    code, output = await reconcile(stores)

    assert output.splitlines() == [
        "left:1: 3 too few, repaired",
        "held:2: 1 too many, repaired",
        "Gate and ledger agree.",
    ]
    assert code == 0
    assert await stores.inventory.left(PRODUCT) == STOCK


async def test_it_leaves_the_repair_to_a_shop_at_work(stores: Shop) -> None:
    """While another process leads it only looks; the mismatch is printed, the exit code is 1."""
    await plant(stores, LEFT, 2)
    lock = leader_lock(stores.node, stores.inventory.gate.tag, ttl_ms=60_000, clock=SystemClock())

    async with lock.hold(wait_ms=0):
        code, output = await reconcile(stores)

    assert "left:1: 2 too many, not repaired" in output
    assert code == 1
    assert await stores.inventory.left(PRODUCT) == STOCK + 2
