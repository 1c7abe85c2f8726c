"""The tests of the locks see defects: three of them here, all of them by ``make mutants``."""

from pathlib import Path

import pytest

from tests.locks.mutants import LOCKS, MUTANTS, Mutant, copy_to, try_on_a_copy

SAMPLE = [
    mutant
    for mutant in MUTANTS
    if mutant.name
    in {"release without looking whose it is", "half is a majority", "one holder too many in a row"}
]


@pytest.mark.parametrize("mutant", SAMPLE, ids=lambda mutant: mutant.name)
def test_a_defect_turns_its_test_red(mutant: Mutant) -> None:
    """With the defect in a copy of the package, the test that is named for it fails."""
    verdict = try_on_a_copy(mutant, mutant.seen_by)

    assert verdict.is_red, verdict.output
    assert verdict.first_failure.startswith(mutant.seen_by)


def test_control_without_a_defect_the_same_tests_are_green() -> None:
    """Control: on a copy as it is, the same tests pass."""
    verdict = try_on_a_copy(None, *(mutant.seen_by for mutant in SAMPLE))

    assert not verdict.is_red, verdict.output


def test_every_defect_can_be_planted(tmp_path: Path) -> None:
    """Each text that a defect replaces is there exactly once, and no two defects are the same."""
    assert len(SAMPLE) == 3
    assert len({(it.file, it.old, it.new) for it in MUTANTS}) == len(MUTANTS) >= 15
    copy_to(tmp_path)
    for mutant in MUTANTS:
        path = tmp_path / LOCKS / mutant.file
        sound = path.read_text(encoding="utf-8")
        mutant.plant(tmp_path)
        path.write_text(sound, encoding="utf-8")
