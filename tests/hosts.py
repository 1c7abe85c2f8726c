"""Two API processes, as on two hosts, and from beside them the gate and the ledger they share."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import UUID

from labshop.api.shop import Shop
from labshop.lab.trial.scene import add_users
from labshop.settings import Settings
from labshop.stack.leash import Leash
from labshop.stack.nodes import ServerNode
from labshop.stack.ports import LOOPBACK, free_port
from labshop.stack.shop_api import ApiProcess
from tests.conftest import SECRET, open_shop
from tests.ledgers import OtherProgram, other_program

PRODUCT = 1


@contextmanager
def two_hosts(
    leash: Leash, folder: Path, *, gate_url: str, ledger_url: str
) -> Iterator[list[ApiProcess]]:
    """Two API processes at work, each with a home of its own; secrets and stores are shared."""
    shared = {
        "LABSHOP_JWT_SECRET": SECRET,
        "LABSHOP_DATABASE_URL": ledger_url,
        "LABSHOP_RESERVATION_TTL_MS": "1500",
    }
    hosts = []
    for name in ("host-1", "host-2"):
        home = folder / name
        home.mkdir()
        port = free_port()
        host = ApiProcess(leash, home, gate_url=gate_url, host=LOOPBACK, port=port, env=shared)
        hosts.append(host)
    try:
        for host in hosts:
            host.start()
        yield hosts
    finally:
        for host in hosts:
            host.end()


@asynccontextmanager
async def stocked(gate: ServerNode, settings: Settings, units: int) -> AsyncIterator[Shop]:
    """The stores as the hosts have them, with so many units of one product.

    What is to be repaired, the hosts have to repair themselves.
    """
    async with open_shop(gate, settings) as shop:

        async def idle() -> None:
            return

        shop.reconciler.look = idle  # type: ignore[method-assign]
        await shop.ledger.adjust(PRODUCT, units=units, actor="test")
        await shop.inventory.gate.rebuild()
        yield shop


def tokens_of(shop: Shop, count: int) -> dict[int, str]:
    """New users, each with a token."""
    user_ids = add_users(shop.settings.ledger_url(), range(count))
    return {user_id: shop.tokens.issue(user_id) for user_id in user_ids}


def orders(shop: Shop) -> list[tuple[str, int]]:
    """Order and buyer of all that was sold, read by another program than the shop."""
    with other_program(shop.settings.ledger_url()) as program:
        rows = program.rows("SELECT id, user_id FROM purchase WHERE status = 'confirmed'")
    return [(str(UUID(str(order_id))), user_id) for order_id, user_id in rows]


def count_sold(program: OtherProgram) -> int:
    """Units sold, of which everybody has one, as another program sees it."""
    [(units,)] = program.rows("SELECT count(*) FROM purchase WHERE status = 'confirmed'")
    return int(units)
