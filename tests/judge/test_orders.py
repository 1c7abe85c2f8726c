"""The smallest examples of receipts that the ledger does not bear out; and their neighbours."""

from labshop.judge.history import FaultRecord
from tests.judge.small import SLOW, audit, broken, buy, op, reason, row

ONE, PAIR = {"1": 1}, {"1": 1, "2": 1}
ANN = buy("ann", (0, 1), ONE, order="a")


def test_nobody_buys_more_than_one_may() -> None:
    """Two units under a limit of one, held at the same time, are one too many."""
    more = buy("ann", (2, 3), ONE, order="b")
    assert broken(ANN, more, stock=5, limit=1) == {"limit-per-user"}
    assert reason(ANN, more, of="limit-per-user", stock=5, limit=1) == (
        "user ann has bought 2 units, and one user may buy 1"
    )
    given_back = op("ann", "cancel", (1, 3), {"order": "a"}, error="?")
    assert broken(ANN, given_back, more, stock=5, limit=1) == set()
    too_late = op("ann", "cancel", (4, 5), {"order": "a"})
    assert broken(ANN, more, too_late, stock=5, limit=1) == {"limit-per-user"}


def test_a_bundle_stands_whole() -> None:
    """Half of a bundle in the ledger is torn; all of it is not."""
    bundle = buy("ann", (0, 1), PAIR, order="a")
    torn = audit((2, 3), row("a", "ann", ONE))
    assert broken(bundle, torn) == {"all-or-nothing", "conservation"}
    assert reason(bundle, torn, of="all-or-nothing") == (
        "ann: 1 of product 1, 1 of product 2 was ordered, and 1 of product 1 is booked"
    )
    assert broken(bundle, audit((2, 3), row("a", "ann", PAIR))) == set()


def test_what_was_refused_does_not_stand() -> None:
    """A refused order in the ledger is half done; one of an earlier attempt is not."""
    seen = audit((4, 5), row("a", "ann", ONE))
    assert "all-or-nothing" in broken(buy("ann", (0, 1), ONE, ask="a", error="Unavailable"), seen)
    attempts = [buy("ann", (0, 1), ONE, ask="a", error=error) for error in ("?", "Unavailable")]
    retried = (attempts[0], buy("ann", (2, 3), ONE, ask="a", error="Unavailable"))
    assert broken(*retried, seen, faults=(SLOW,)) == set()


def test_a_receipt_is_in_the_ledger() -> None:
    """An acknowledged order that an audit lacks is lost; not if the audit had begun before."""
    assert broken(ANN, audit((2, 3))) == {"durable-orders", "conservation"}
    assert reason(ANN, audit((2, 3)), of="durable-orders") == (
        "ann holds a receipt of order a; the ledger does not"
    )
    assert broken(ANN, audit((1, 3))) == set()
    assert broken(ANN, op("ann", "cancel", (2, 4), {"order": "a"}), audit((3, 5))) == set()


def test_a_key_is_one_order() -> None:
    """Two orders under one key are one too many; the same one twice is an answer repeated."""
    again = buy("ann", (2, 3), ONE, order="b", key="k")
    first = buy("ann", (0, 1), ONE, order="a", key="k")
    assert broken(first, again, stock=5) == {"idempotency"}
    assert reason(first, again, of="idempotency") == "ann used one key, and got 2 orders"
    assert broken(first, buy("ann", (2, 3), ONE, order="a", key="k")) == set()
    assert broken(first, buy("bob", (2, 3), ONE, order="b", key="k"), stock=5) == set()
    assert broken(buy("ann", (0, 1), ONE, key="k"), buy("ann", (2, 3), ONE, key="k")) == set()
    assert broken(ANN, buy("ann", (2, 3), ONE, order="b"), stock=5) == set()


def test_an_order_is_one_buyer_s() -> None:
    """The same order for two buyers is one that is lost; user 7 and user "7" are one."""
    assert broken(ANN, buy("bob", (2, 3), ONE, order="a"), stock=5) == {"idempotency"}
    assert broken(ANN, audit((2, 3), row("a", "bob", ONE))) == {"idempotency"}
    seven = op("ann", "buy", (0, 1), {"user": 7, "lines": ONE}, order="a", user="7")
    assert broken(seven, audit((2, 3), row("a", "7", ONE))) == set()


def test_an_order_stands_once() -> None:
    """Two rows under one key are one too many."""
    keyed = buy("ann", (0, 1), ONE, order="a", key="k")
    rows = [{**row(order, "ann", ONE), "key": "k"} for order in ("a", "b")]
    assert reason(keyed, audit((2, 3), *rows), of="idempotency", stock=5) == (
        "user ann has 2 orders under the one key k"
    )
    assert broken(keyed, audit((2, 3), rows[0])) == set()


def test_without_a_fault_there_is_an_answer() -> None:
    """No answer is a violation; not under a fault, nor when the recording ended before it."""
    lost = buy("ann", (2, 3), {"1": 9}, error="?")
    assert broken(lost) == {"definite-answers"}
    assert reason(lost, of="definite-answers") == "ann got no definite answer (?)"
    assert broken(lost, faults=(FaultRecord("cut", "network", 0.0, 2.0),)) == set()
    assert broken(buy("ann", (2, None), {"1": 9}, error="?")) == set()
