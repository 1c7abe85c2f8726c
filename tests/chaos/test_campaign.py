"""A short campaign: two API processes sell under a dozen faults, and the judge sees everything."""

from pathlib import Path

from labshop.lab.chaos import Report, run_campaign
from labshop.lab.chaos.deck import Deck
from labshop.lab.chaos.measure import RECOVER_S
from labshop.lab.chaos.premises import Premises

SEED = 1
FAULTS = 12


def campaign(folder: Path, stage: str, faults: int) -> Report:
    return run_campaign(
        faults=faults, minutes=2.0, seed=SEED, stage=stage, say=print, folder=folder
    )


def test_a_dozen_faults(tmp_path: Path) -> None:
    """Nothing oversold, undersold or lost; the shop recovers from each fault by itself."""
    report = campaign(tmp_path, "v4", FAULTS)

    assert report.misses == []
    told = report.as_dict()
    assert told["faults"] >= FAULTS
    assert (told["oversold"], told["undersold"], told["lost"]) == (0, 0, 0)
    assert told["verdicts"] == {"VALID": len(report.sales)}
    assert told["recovered"]["ratio"] == 1.0
    assert told["recovery_s"]["max"] < RECOVER_S
    assert told["acknowledged"] >= 120 * len(report.sales)
    assert list(tmp_path.iterdir()) == []


def test_a_strategy_that_gives_nothing_back_is_accused(tmp_path: Path) -> None:
    """The control: in the same campaign, a known bug fails, with its seed and its picture."""
    report = campaign(tmp_path, "labshop.zoo.no_compensation:Purchase", 1)

    assert "no-undersell" in report.sales[0].broken
    assert f"--seed {SEED}" in report.misses[-1]
    assert {it.name for it in tmp_path.iterdir()} == {f"seed-{SEED}.jsonl", f"seed-{SEED}.html"}
    assert "MISSED" in str(report)


def test_seeds_deal_every_kind_and_repeat(tmp_path: Path) -> None:
    """One sale's faults follow from its seed; consecutive seeds go through all kinds."""
    with Premises(tmp_path) as premises:
        deck, again = Deck(premises), Deck(premises)
        dealt = [[(kind, it.target, it.at_s) for kind, it in deck.deal(n, 6)] for n in range(40)]

        assert dealt[7] == [(kind, it.target, it.at_s) for kind, it in again.deal(7, 6)]
        assert {kind for sale in dealt for kind, _, _ in sale} == set(deck.kinds)
        assert len(deck.kinds) >= 28
