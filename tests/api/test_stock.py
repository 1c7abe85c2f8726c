"""Sold out, over HTTP: said at once and for free, and to nobody who has bought already."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx2 as httpx
import pytest

from labshop.locks.wire import Part, Reply
from tests.api.conftest import ONE, PRODUCT, Buyer, Door, problem

UNITS = 2


@pytest.fixture(autouse=True)
async def last_units(door: Door) -> None:
    """Two units are on sale."""
    await door.shop.ledger.adjust(PRODUCT, units=UNITS, actor="test")
    await door.shop.inventory.gate.rebuild()


async def buy(buyer: Buyer, stage: str, key: str, body: Any = ONE) -> httpx.Response:
    headers = {"Idempotency-Key": key}
    return await buyer.http.post(f"/{stage}/purchases", json=body, headers=headers)


async def sell_out(door: Door, stage: str) -> tuple[Buyer, httpx.Response]:
    """Sell both units to one buyer, and refuse another: from here on, the flag stands."""
    early, late = await door.buyer("early"), await door.buyer("late")
    first = await buy(early, stage, "first")
    assert (await buy(early, stage, "second")).status_code == 201
    assert problem(await buy(late, stage, "late")) == (409, "Sold out")
    assert is_flagged(door)
    return early, first


def is_flagged(door: Door) -> bool:
    return door.shop.inventory.sold_out.since_ms(PRODUCT) is not None


@pytest.fixture
def believed_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag stands for longer than any of these tests takes."""
    monkeypatch.setattr("labshop.storage.sold_out.BELIEVED_MS", 600_000)


@pytest.mark.usefixtures("believed_for_long")
@pytest.mark.parametrize("stage", ["v1", "v4"])
async def test_who_has_bought_has_the_receipt_again(door: Door, stage: str) -> None:
    """A repeated request is answered as before although all is sold, and a new one is refused."""
    early, first = await sell_out(door, stage)

    again = await buy(early, stage, "first")
    other = await buy(early, stage, "first", {"lines": [{"product_id": 2, "quantity": 1}]})

    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert problem(other) == (422, "Idempotency key reused")
    assert problem(await buy(early, stage, "new")) == (409, "Sold out")


@pytest.mark.usefixtures("believed_for_long")
@pytest.mark.parametrize("stage", ["v1", "v4"])
@pytest.mark.parametrize("flagged", [True, False], ids=["flag", "control"])
async def test_a_buyer_who_comes_too_late_costs_the_gate_nothing(
    door: Door, stage: str, monkeypatch: pytest.MonkeyPatch, *, flagged: bool
) -> None:
    """No reservation is tried, none is given back, and nobody stands in line for a lock.

    Control: where no flag is raised, the gate is asked for each buyer, and told of each again.
    """
    gate, asked = door.shop.inventory.gate, Counter[str]()
    run = gate.run

    async def counted(script: str, keys: Sequence[str], args: Sequence[Part]) -> Reply:
        asked[script] += 1
        return await run(script, keys, args)

    early, _ = await sell_out(door, stage)
    if not flagged:
        monkeypatch.setattr(door.shop.inventory.sold_out, "note", lambda *_: None)
        door.shop.inventory.sold_out._flags.clear()
    locks: list[str] = []
    door.shop.watch_locks = lambda event: locks.append(event.kind)
    monkeypatch.setattr(gate, "run", counted)

    for number in range(5):
        assert problem(await buy(early, stage, f"late-{number}")) == (409, "Sold out")

    spent = 0 if flagged else 5
    assert (asked["reserve_stock"], asked["release_reservation"]) == (spent, spent)
    assert locks.count("acquired") == (0 if stage == "v4" else spent)


@pytest.mark.usefixtures("believed_for_long")
async def test_a_cancelled_order_is_on_sale_and_shown_at_once(door: Door) -> None:
    """After "sold out" one unit comes back: everybody sees it, and the next buyer has it."""
    early, first = await sell_out(door, "v4")
    assert (await shown(early))["left"] == 0

    await early.http.delete(f"/orders/{first.json()['order_id']}")

    assert not is_flagged(door)
    assert (await shown(early))["left"] == 1
    assert (await buy(early, "v4", "third")).status_code == 201
    assert await door.books() == (0, 0, UNITS)


async def test_a_number_says_how_old_it_is(door: Door) -> None:
    """It is at most as old as the answer says, and that is not less than nothing."""
    looker = await door.buyer("looker")

    first, second = await shown(looker), await shown(looker)

    assert first.pop("age_ms") > 0
    assert second.pop("age_ms") > 0
    assert first == second == {"product_id": PRODUCT, "left": UNITS, "source": "gate"}


async def shown(looker: Buyer) -> dict[str, Any]:
    answer = await looker.http.get(f"/products/{PRODUCT}/stock")
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body
