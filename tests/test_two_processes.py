"""Two API processes, one gate, one ledger, and 2000 buyers: 1000 units are sold exactly once.

One of the two falls silent in mid-sale, and is then killed by SIGKILL: of what it booked meanwhile
nobody has heard. Those buyers ask again, and find the other, under their Idempotency-Key.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import httpx2 as httpx

from labshop.api.shop import Shop
from labshop.judge.checker import check
from labshop.judge.history import History, Sale
from labshop.judge.recorder import Recorder
from labshop.lab.crowd import Answers, Buyer, Door, make_crowd, poisson, press_buy
from labshop.lab.doors import HttpDoor
from labshop.lab.trial.run import audit_row
from labshop.settings import Settings
from labshop.shop.domain import Line
from labshop.stack.faults.network import Network
from labshop.stack.leash import Leash
from labshop.stack.nodes import ServerNode
from labshop.stack.ports import LOOPBACK
from labshop.stack.shop_api import ApiProcess
from tests.conftest import either_ledger, eventually
from tests.hosts import PRODUCT, count_sold, orders, stocked, tokens_of, two_hosts
from tests.ledgers import OtherProgram, other_program

STOCK, BUYERS = 1_000, 2_000
ARRIVALS_PER_S = 400
PATIENCE_S = 60.0
AT_ONCE = 100
"""Connections of the crowd: more of them make the client slow, and not the shop."""
FRAIL = "host-1"


@dataclass
class Place:
    """Two processes, the way to the first of them, and their stores seen from beside."""

    shop: Shop
    hosts: Sequence[ApiProcess]
    network: Network
    books: OtherProgram

    @property
    def urls(self) -> list[str]:
        return [f"http://{LOOPBACK}:{self.network.port(FRAIL)}", self.hosts[1].url]

    async def kill_one(self, *, after: int) -> None:
        """When so many units are sold, let one fall silent; kill it once it has booked unheard."""
        await eventually(lambda: self.has_sold(after), within_s=PATIENCE_S)
        with self.network.replies_dropped(server=FRAIL):
            await eventually(self._has_booked_unheard, within_s=PATIENCE_S)
            self.hosts[0].kill()

    async def has_sold(self, units: int) -> bool:
        return count_sold(self.books) >= units

    async def _has_booked_unheard(self) -> bool:
        unheard = self.network.traffic(FRAIL).dropped_replies
        return any(b" 201 Created" in reply for reply in unheard)


@contextmanager
def two_processes(shop: Shop, leash: Leash, folder: Path, gate: ServerNode) -> Iterator[Place]:
    ledger_url = shop.settings.ledger_url()
    with two_hosts(leash, folder, gate_url=gate.url, ledger_url=ledger_url) as hosts:
        frail_port = int(hosts[0].url.rpartition(":")[2])
        with Network({FRAIL: frail_port}) as network, other_program(ledger_url) as books:
            yield Place(shop, hosts, network, books)


@dataclass
class Forgetful:
    """A door for buyers who take a new Idempotency-Key whenever they ask again."""

    door: Door

    async def ask(self, buyer: Buyer, recorder: Recorder) -> bool:
        return await self.door.ask(replace(buyer, key=str(uuid4())), recorder)


async def press_at(place: Place, buyers: int, recorder: Recorder, *, forgetful: bool) -> None:
    """Everybody wants one unit; who is not answered asks again, at either process in turn."""
    tokens = tokens_of(place.shop, buyers)
    arrivals = poisson(ARRIVALS_PER_S)
    crowd = make_crowd(list(tokens), lambda _: (Line(PRODUCT, 1),), seed=1, arrivals=arrivals)
    patient = [replace(buyer, patience_s=PATIENCE_S) for buyer in crowd]
    limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
    async with httpx.AsyncClient(limits=limits, timeout=PATIENCE_S) as client:
        door: Door = HttpDoor(client, place.urls, tokens, "v4")
        await press_buy(patient, Forgetful(door) if forgetful else door, recorder)


async def close_the_books(shop: Shop, recorder: Recorder) -> None:
    """Once nothing is held any more: what ledger and gate say, for the judge."""

    async def settled() -> bool:
        return not await shop.inventory.abandoned(older_than_ms=0)

    await eventually(settled, within_s=PATIENCE_S)
    with recorder.invoke("auditor", "audit", {"settled": True}) as call:
        audit = await shop.ledger.audit()
        rows = [audit_row(receipt) for receipt in audit.orders]
        call.ok(left={str(PRODUCT): audit.left[PRODUCT]}, orders=rows)
    with recorder.invoke("auditor", "read", {"product": PRODUCT, "place": "gate"}) as call:
        call.ok(left=await shop.inventory.unsold(PRODUCT))


async def run_sale(
    place: Place, stock: int, buyers: int, *, forgetful: bool = False
) -> tuple[History, Answers]:
    """A sale in which one of the processes is killed when a fifth is sold."""
    recorder = Recorder(Sale({PRODUCT: stock}, limit_per_user=1))
    async with asyncio.TaskGroup() as beside:
        beside.create_task(press_at(place, buyers, recorder, forgetful=forgetful))
        await place.kill_one(after=stock // 5)
        assert not await place.has_sold(stock)
    await close_the_books(place.shop, recorder)
    history = recorder.history()
    return history, Answers.of(history)


@either_ledger
async def test_thousand_units_two_thousand_buyers_and_a_kill(
    valkey: ServerNode, settings: Settings, leash: Leash, tmp_path: Path
) -> None:
    """All 1000 are sold, each once; every receipt is in the ledger, and nobody has two."""
    async with stocked(valkey, settings, STOCK) as shop:
        with two_processes(shop, leash, tmp_path, valkey) as place:
            history, answers = await run_sale(place, STOCK, BUYERS)
        sold, at_gate = orders(shop), await shop.inventory.unsold(PRODUCT)

    assert answers.outcomes == {"booked": STOCK, "SoldOut": BUYERS - STOCK}
    assert {order_id for order_id, _ in sold} == set(answers.order_ids)
    assert len({buyer for _, buyer in sold}) == len(sold) == STOCK
    assert at_gate == 0
    verdict = check(history)
    assert verdict.outcome == "VALID", verdict


async def test_without_the_key_somebody_has_two(
    valkey: ServerNode, settings: Settings, leash: Leash, tmp_path: Path
) -> None:
    """The control: there is enough for all, and who asks under another key buys a second time."""
    async with stocked(valkey, settings, 400) as shop:
        with two_processes(shop, leash, tmp_path, valkey) as place:
            history, answers = await run_sale(place, 400, 300, forgetful=True)
        sold = orders(shop)

    assert answers.outcomes == {"booked": 300}
    assert len({buyer for _, buyer in sold}) == 300 < len(sold)
    assert set(answers.order_ids) < {order_id for order_id, _ in sold}
    assert "limit-per-user" in check(history).broken
