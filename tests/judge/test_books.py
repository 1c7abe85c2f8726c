"""The verdict on a sale's books."""

import pytest

from labshop.judge.books import Books, judge


@pytest.mark.parametrize(
    ("books", "verdict"),
    [
        (Books(10, 25, 10, {"ledger": 0, "gate": 0}), "VALID: 10 sold of 10, 25 wanted"),
        (Books(10, 4, 4, {"ledger": 6}), "VALID: 4 sold of 10, 4 wanted"),
        (Books(10, 25, 11), "INVALID: 11 units sold of 10"),
        (Books(10, 25, 9, {"ledger": 1}), "INVALID: 9 units sold, and 10 were wanted and there"),
        (Books(10, 25, 10, {"gate": 1}), "INVALID: 10 sold and 1 left at the gate is not 10"),
        (Books(10, 25, None), "UNKNOWN: could not be read: the orders"),
        (Books(10, 25, 10, {"ledger": 0, "gate": None}), "UNKNOWN: could not be read: gate"),
    ],
)
def test_a_verdict_has_its_reason(books: Books, verdict: str) -> None:
    """Oversold, undersold, contradicting and unreadable books are told apart."""
    assert str(judge(books)) == verdict
