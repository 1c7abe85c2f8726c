"""What it costs to look at the stock, and to be told that it is sold out.

The problem: for each who buys a hundred look, and when all is sold a thousand still ask. The idea:
in each round the same crowd looks by way of the cache and past it, and is refused by the flag and
by the gate; what counts is the ratio of the CPU time of this process, and how often the server that
sells was asked.

It leaves HTTP out, which costs the same either way: these are costs of the shop and its gate.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from labshop.lab.session import Lab, open_lab
from labshop.load.figure import Figure
from labshop.shop.domain import Line, Order
from labshop.shop.errors import SoldOut
from labshop.storage.sold_out import SoldOutFlags

ROUNDS = 5
CROWD, EACH = 50, 40
"""So many at once, and what each of them asks for in turn."""
PLENTY, GONE, SCARCE = 1, 2, 3
"""Products: one that sells, one of which nothing is left, one of which a single unit is."""
CHECKS = 20_000

Ask = Callable[[], Awaitable[object]]


async def stock_read_figures() -> list[Figure]:
    """Measure looks and refusals on a server of their own."""
    lab = await open_lab(name="bench", node_timeout_ms=10_000)
    try:
        for product_id, units in {GONE: 0, SCARCE: 1}.items():
            await lab.shop.ledger.adjust(product_id, units=units, actor="bench")
        await lab.put_on_sale(PLENTY, 1_000)
        return await _measure(lab)
    finally:
        await lab.close()


async def _measure(lab: Lab) -> list[Figure]:
    shop, inventory = lab.shop, lab.shop.inventory
    gone = Order.place(1, [Line(GONE, 1)])
    scarce = Order.place(1, [Line(SCARCE, 2)])

    async def be_refused(order: Order) -> None:
        with suppress(SoldOut):
            await inventory.reserve(order)

    looks, refusals, asked, checks = list[float](), list[float](), list[float](), list[float]()
    for _ in range(ROUNDS):
        at_gate_s = await _burst(lambda: inventory.left(PLENTY))
        before = await _reads(lab)
        looks.append(await _burst(lambda: shop.stock.look(PLENTY)) / at_gate_s)
        asked.append((await _reads(lab) - before) * 1_000 / (CROWD * EACH))
        # Of the scarce product a unit is left, so two are refused each time, and no flag is raised.
        by_gate_s = await _burst(lambda: be_refused(scarce))
        refusals.append(await _burst(lambda: be_refused(gone)) / by_gate_s)
        checks.append(_cost_of_no_flag_us(lab))
    return [
        Figure.of("look at the stock, cache / gate", "CPU of the process; 1 asks each time", looks),
        Figure.of("sold out, flag / gate", "CPU of the process; 1 asks each time", refusals),
        Figure.of("reads at the gate", "of 1000 looks by way of the cache", asked),
        Figure.of("no flag is up (µs)", "what a purchase pays for the flags", checks),
    ]


async def _burst(ask: Ask) -> float:
    """A crowd asks; the CPU seconds of this process."""

    async def visitor() -> None:
        for _ in range(EACH):
            await ask()

    began_s = time.process_time()
    await asyncio.gather(*(visitor() for _ in range(CROWD)))
    return time.process_time() - began_s


async def _reads(lab: Lab) -> int:
    """How often the gate was read so far."""
    told = await lab.node.command("INFO", "commandstats")
    found = re.search(r"cmdstat_hmget:calls=(\d+)", told)
    return int(found[1]) if found else 0


def _cost_of_no_flag_us(lab: Lab) -> float:
    refuse, lines = SoldOutFlags(lab.shop.clock).refuse, (Line(PLENTY, 1),)
    began_s = time.process_time()
    for _ in range(CHECKS):
        refuse(lines)
    return (time.process_time() - began_s) / CHECKS * 1_000_000
