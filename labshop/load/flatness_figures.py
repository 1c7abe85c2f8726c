"""Whether a purchase costs the same in a large shop as in a small one.

The problem: a statement that looks at all orders there are is fast in every test, and slow on the
day that counts. The idea: three shops stand side by side, one of ten products that has sold
nothing, one of ten thousand products, and one that has sold a million times. They are bought from
in turns, every product alike, by users who have not come in this run, each with a key of their own.
What counts is the ratio to the small shop in the same round; a flat cost is 1.

It says nothing about PostgreSQL, nor about a shop whose pages do not fit into the machine's memory.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlmodel import update

from labshop.lab.session import Lab
from labshop.load.figure import Figure
from labshop.load.filled_ledger import add_orders, add_products, add_users
from labshop.load.wrk import SERVER_CORE, Burst, burst, is_possible
from labshop.settings import read_settings
from labshop.stack.shop_api import readiness
from labshop.storage.database import Database
from labshop.storage.seed import seed
from labshop.storage.tables import SaleWindow

ROUNDS = 8
BURST_S = 1
CONNECTIONS = 50
BUYERS = 40_000
UNITS = 10**6
LIMIT = 10**3
WARM_UPS = 10
READY_S, POLL_S = 60, 0.05
"""A gate of a million orders takes its server some seconds."""

SCRIPT = """
local tokens, n = {}, START
for line in io.lines("TOKENS") do tokens[#tokens + 1] = line end
request = function()
  n = n + 1
  return wrk.format("POST", "/v4/purchases", {
    ["Authorization"] = "Bearer " .. tokens[n % #tokens + 1],
    ["Content-Type"] = "application/json",
    ["Idempotency-Key"] = "bench-" .. n,
  }, '{"lines": [{"product_id": ' .. n % PRODUCTS + 1 .. ', "quantity": 1}]}')
end
"""


@dataclass(frozen=True)
class Size:
    """How large a shop is."""

    name: str
    products: int = 10
    users: int = BUYERS
    orders: int = 0


SMALL = Size("ten products, no orders")
LARGE = (
    Size("10,000 products", products=10_000),
    Size("1,000,000 orders", users=500_000, orders=1_000_000),
)


class _Shop:
    """A shop of some size, to be bought from.

    Args:
        size: which.
        folder: its own; for its servers, its ledger, and wrk's script.
    """

    def __init__(self, size: Size, folder: Path) -> None:
        self.size = size
        self.heat_ms = 0.0
        self._home = folder / "home"
        self._tokens, self._script = folder / "tokens", folder / "buy.lua"
        self._asked = 0

    async def open(self, stack: AsyncExitStack) -> None:
        """Give it its size, and have it serve for as long as the stack lasts."""
        self._home.mkdir(parents=True)
        settings = read_settings(home=self._home, database_url=None, node_timeout_ms=10_000)
        users = self._fill(Database(settings.ledger_url(), timeout_ms=10_000))
        lab = Lab(self._home, settings)
        stack.push_async_callback(lab.close)
        await lab.start()
        began_s = time.perf_counter()
        await lab.shop.inventory.gate.rebuild()
        self.heat_ms = (time.perf_counter() - began_s) * 1_000
        # From all over the table, as they come in a sale.
        buyers = random.Random(1).sample(users, BUYERS)  # noqa: S311  # no secret
        self._tokens.write_text("\n".join(lab.shop.tokens.issue(user) for user in buyers))
        await self._serve(lab, stack)

    def _fill(self, database: Database) -> range:
        """A ledger of its size, before anybody looks at it; returns the users' ids."""
        database.migrate()
        seed(database, admin_password_hash="!")  # noqa: S106  # no password has it
        with database.writing() as session:
            session.execute(update(SaleWindow).values(limit_per_user=LIMIT))
            session.commit()
        users = add_users(database, self.size.users)
        add_products(database, self.size.products, UNITS)
        if self.size.orders:
            add_orders(database, self.size.orders, users=users, products=self.size.products)
        database.close()
        return users

    async def _serve(self, lab: Lab, stack: AsyncExitStack) -> None:
        api = stack.enter_context(lab.serving())
        async with asyncio.timeout(READY_S):
            while not readiness(api.url)[0]:  # noqa: ASYNC110  # an event of another process
                await asyncio.sleep(POLL_S)
        self._url, self._server = api.url, psutil.Process(api.pid)
        self._server.cpu_affinity([SERVER_CORE])

    def warm_up(self) -> None:
        """Buy until it sells: the first commits wait for the disk, on which all of it was laid."""
        for _ in range(WARM_UPS):
            if self.buy().count:
                return
        raise RuntimeError(f"the shop of {self.size.name} does not sell")

    def buy(self) -> Burst:
        """One burst of purchases, by buyers who have not come yet."""
        script = SCRIPT.replace("START", str(self._asked)).replace("TOKENS", str(self._tokens))
        self._script.write_text(script.replace("PRODUCTS", str(self.size.products)))
        found = burst(
            self._server,
            self._url,
            "-s",
            str(self._script),
            connections=CONNECTIONS,
            seconds=BURST_S,
        )
        # A little further on: what was under way at the end was asked for as well.
        self._asked += found.count + 2 * CONNECTIONS
        return found


async def flatness_figures(folder: Path) -> list[Figure]:
    """Measure; nothing, where there is no wrk or only one core.

    Args:
        folder: for the shops, and wrk's scripts.
    """
    if not is_possible():
        return []
    async with AsyncExitStack() as stack:
        shops = [_Shop(size, folder / str(number)) for number, size in enumerate((SMALL, *LARGE))]
        for shop in shops:
            await shop.open(stack)
        for shop in shops:
            shop.warm_up()
        rounds = list(_rounds(shops))
        return [*_ratios(shops, rounds), *_heats(shops)]


def _rounds(shops: list[_Shop]) -> Iterator[list[Burst]]:
    """Bursts of all shops in turns: up the row in one round, down in the next."""
    for number in range(ROUNDS):
        turn = 1 if number % 2 else -1
        yield [shop.buy() for shop in shops[::turn]][::turn]


def _ratios(shops: list[_Shop], rounds: list[list[Burst]]) -> Iterator[Figure]:
    """Each large shop against the small one, which is the first of each round."""
    cpu_meaning = f"server CPU a purchase; 1 is that of {SMALL.name}; flat is 0.90 to 1.10"
    speed_meaning = f"purchases a second; 1 is that of {SMALL.name}"
    for place, shop in enumerate(shops[1:], start=1):
        cpu = [each[place].cpu_us / each[0].cpu_us for each in rounds]
        yield Figure.of(f"v4, CPU, {shop.size.name}", cpu_meaning, cpu)
    for place, shop in enumerate(shops[1:], start=1):
        speed = [each[place].per_s / each[0].per_s for each in rounds]
        yield Figure.of(f"v4, speed, {shop.size.name}", speed_meaning, speed)


def _heats(shops: list[_Shop]) -> Iterator[Figure]:
    meaning = "building the gate from the ledger; nothing is sold meanwhile"
    for shop in shops:
        yield Figure.of(f"gate (ms), {shop.size.name}", meaning, [shop.heat_ms])
