"""Redis comes back with an older memory in mid-sale: it is built anew before it sells on."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from labshop.api.shop import Shop, build_shop, running
from labshop.locks import NodeError
from labshop.settings import Settings
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from tests.conftest import SETTLE_S, eventually, users
from tests.ops.conftest import PRODUCT, STOCK, comparison_of, epoch, order_of, quiet

BEFORE, AFTER = 10, 15


@pytest.fixture
def frail(leash: Leash, tmp_path: Path) -> Iterator[ServerNode]:
    """A gate of this test's own, to be killed and brought back as it was before."""
    node = ServerNode(NodeSpec("frail", "primary"), find_server(None), tmp_path / "frail", leash)
    node.start()
    yield node
    node.kill()


async def sell(shop: Shop, buyers: list[int], *, until: int) -> None:
    """Sell units, one each, until so many are sold and the gate knows of it."""
    for user_id in buyers[await shop.ledger.sold(PRODUCT) : until]:
        await shop.strategies["v4"].buy(order_of(user_id, (PRODUCT, 1)))

    async def known() -> bool:
        return await shop.inventory.unsold(PRODUCT) == STOCK - until

    await eventually(known)


async def answers(shop: Shop) -> bool:
    """Whether the server is there again, over whichever connection."""
    try:
        return bool(await shop.node.command("PING"))
    except NodeError:
        return False


@pytest.mark.parametrize("compares", [True, False], ids=["compared", "control"])
async def test_an_older_memory_is_built_anew_before_it_sells(
    settings: Settings, frail: ServerNode, monkeypatch: pytest.MonkeyPatch, *, compares: bool
) -> None:
    """A backup from ten sales on is restored after twenty-five: the gate knows of all of them.

    Control: a gate that is believed without a look at its run offers fifteen sold units again.
    """
    shop, backup = build_shop(settings, gate_url=frail.url), frail.folder.with_name("backup")
    quiet(shop)
    async with running(shop):
        async with asyncio.timeout(SETTLE_S):
            await shop.opened.wait()
        buyers = await users(shop, STOCK)
        await sell(shop, buyers, until=BEFORE)
        shutil.copytree(frail.folder, backup)
        built = await epoch(shop)
        await sell(shop, buyers, until=BEFORE + AFTER)
        gate = shop.inventory.gate

        async def believe() -> None:
            gate._believed_connection = gate.node.connections

        if not compares:
            monkeypatch.setattr(gate, "_compare_memory", believe)
        frail.kill()
        shutil.rmtree(frail.folder)
        shutil.copytree(backup, frail.folder)
        frail.restart()
        await eventually(lambda: answers(shop))

        left = await shop.inventory.unsold(PRODUCT)

        assert left == STOCK - BEFORE - (AFTER if compares else 0)
        assert (await epoch(shop) != built) == compares
        if compares:
            await sell(shop, buyers, until=STOCK)
            assert (await comparison_of(shop).look()).drifts == {}
            assert (await shop.ledger.snapshot()).left[PRODUCT] == 0
