"""The smallest examples of an oversold, an undersold, and a lost unit; and their neighbours."""

from labshop.judge.history import FaultRecord, Operation
from tests.judge.small import SLOW, audit, broken, buy, op, reason, row

ONE = {"1": 1}
ANN, BOB = buy("ann", (0, 1), ONE, order="a"), buy("bob", (0, 1), ONE, order="b")
SOLD_OUT = buy("bob", (2, 3), ONE, error="SoldOut")


def read(span: tuple[float, float], **told: int) -> Operation:
    return op("eve", "read", span, {"product": 1}, **told)


def test_one_unit_is_sold_once() -> None:
    """Two receipts for one unit are oversold; not if one of them is unknown, or was cancelled."""
    assert reason(ANN, BOB, of="no-oversell") == "2 units of product 1 were sold, and there were 1"
    assert broken(ANN, BOB) == {"no-oversell", "linearizable-stock"}
    assert broken(ANN, buy("bob", (0, 1), ONE, error="?"), faults=(SLOW,)) == set()
    cancel = op("ann", "cancel", (0.5, 4), {"order": "a"}, error="?")
    assert broken(ANN, BOB, cancel) == set()


def test_a_ledger_does_not_count_more_than_there_were() -> None:
    """An audit that has sold two of one is oversold; after a restock it is not."""
    two = audit((5, 6), sold={"1": 2})
    assert "no-oversell" in broken(two)
    assert reason(two, of="no-oversell") == (
        "2 units of product 1 are sold at the ledger, and there were 1"
    )


def test_sold_out_is_said_when_it_is() -> None:
    """Sold out while a unit is left is undersold; not if a purchase overlaps, or may have come."""
    assert reason(SOLD_OUT, of="no-undersell") == (
        "bob wanted 1 of product 1 and was told that it is sold out, while 1 of product 1 were left"
    )
    assert broken(SOLD_OUT) == {"no-undersell", "linearizable-stock"}
    assert broken(ANN, SOLD_OUT) == set()
    assert broken(buy("ann", (0, 2.5), ONE, order="a"), SOLD_OUT) == set()
    # In the same millisecond, either may have been first.
    assert broken(SOLD_OUT, buy("ann", (3, 4), ONE, order="a")) == set()
    assert broken(SOLD_OUT, buy("ann", (3.1, 4), ONE, order="a")) != set()
    assert broken(buy("ann", (0, 1), ONE, error="?"), SOLD_OUT, faults=(SLOW,)) == set()


def test_a_bundle_is_refused_for_one_of_its_products() -> None:
    """A refusal without a product is wrong where all of them were there."""
    assert broken(buy("bob", (0, 1), {"1": 1, "2": 1}, error="SoldOut")) == {"no-undersell"}
    assert broken(ANN, buy("bob", (2, 3), {"1": 1, "2": 1}, error="SoldOut")) == set()


def test_nobody_goes_home_without_a_unit_that_is_left() -> None:
    """A busy lock is no reason, unless a fault was there, or the unit came back only later."""
    busy = buy("bob", (2, 3), ONE, error="LockTimeout")
    assert reason(busy, of="no-undersell") == (
        "bob wanted 1 of product 1 and was told LockTimeout; at the end 1 of product 1 were left"
    )
    assert broken(busy, faults=(FaultRecord("paused", "lock", 2.5, 9.0),)) == set()
    assert broken(busy, faults=(FaultRecord("paused", "lock", 4.0, 9.0),)) == {"no-undersell"}
    assert broken(ANN, busy, op("ann", "cancel", (4, 5), {"order": "a"})) == set()
    assert broken(buy("bob", (2, 3), ONE, error="LimitReached")) == set()
    assert broken(buy("bob", (2, None), ONE, error="?")) == set()


def test_units_that_are_held_may_come_back() -> None:
    """Whoever is told that others hold the last unit is not wronged when these give it back."""
    held = buy("bob", (2, 3), ONE, error="StockHeld")
    assert broken(held) == {"no-undersell"}
    assert broken(buy("ann", (1, 4), ONE, error="LimitReached"), held) == set()


def test_what_is_read_adds_up() -> None:
    """A read tells what was there, less what was sold; during a sale, either is right."""
    assert reason(ANN, read((2, 3), left=1), of="conservation") == (
        "eve saw that 1 units of product 1 were unsold; exactly 0 could be"
    )
    assert "conservation" in broken(ANN, read((2, 3), left=1))
    assert broken(ANN, read((2, 3), left=0)) == set()
    assert broken(ANN, read((1, 3), left=1)) == set()
    assert broken(read((2, 3), left=0, held=1)) == set()
    assert broken(read((2, 3), left=1, held=1), stock=1) != set()


def test_what_was_sold_is_read_too() -> None:
    """A read that tells only the units sold is held against the receipts."""
    assert broken(ANN, read((2, 3), sold=0)) == {"conservation"}
    assert broken(ANN, read((2, 3), sold=1)) == set()
    assert broken(ANN, read((2, 3), left=0, sold=2), stock=1) >= {"conservation"}


def test_an_audit_adds_up_in_the_middle_of_a_sale() -> None:
    """Sold and left are what there was, whatever is under way; a held unit counts as left."""
    begun = buy("bob", (0, 9), ONE, order="b")
    assert broken(begun, audit((2, 3), row("b", "bob", ONE), left={"1": 0})) == set()
    assert broken(begun, audit((2, 3), left={"1": 0}, held={"1": 1})) == set()
    assert broken(begun, audit((2, 3), left={"1": 0})) == {"conservation"}


def test_an_order_whose_buyer_never_heard_of_it_is_cancelled() -> None:
    """The units of a purchase without an answer come back, if its order was cancelled."""
    lost = buy("ann", (0, 1), ONE, error="?", key="k")
    cancel = op("ann", "cancel", (2, 3), {"order": "a"})
    seen = audit((6, 7), {**row("a", "ann", ONE, status="cancelled"), "key": "k"}, left={"1": 1})
    assert broken(lost, cancel, read((4, 5), left=1), seen, faults=(SLOW,)) == set()
    assert broken(lost, cancel, read((4, 5), left=1), faults=(SLOW,)) == set()
    assert broken(lost, cancel, read((4, 5), left=3), faults=(SLOW,)) != set()


def test_an_audit_proves_absence_only_of_what_it_could_show() -> None:
    """An unknown purchase without a key or an order id may stand under any name."""
    empty = audit((2, 3))
    named, nameless = (buy("ann", (0, 1), ONE, error="?", **it) for it in ({"key": "k"}, {}))
    assert broken(named, empty, read((4, 5), left=0), faults=(SLOW,)) != set()
    assert broken(nameless, empty, read((4, 5), left=0), faults=(SLOW,)) == set()
