"""Lesson 3 must turn red for a lock that lacks one of its safeguards, at the claim about it."""

import shutil
from pathlib import Path

import pytest
from builder.verify import run_nbval

from tests.lessons.test_broken_shop_is_seen import PACKAGE, swap

LESSON = PACKAGE.parent / "notebooks/03_redlock/lesson.ipynb"


@pytest.mark.timeout(600)
def test_a_lock_without_its_safeguards_turns_lesson_3_red(tmp_path: Path) -> None:
    """No second look at the clock, no quarantine: C4 and C10 say so, and C7 has its control."""
    broken = tmp_path / "labshop"
    shutil.copytree(PACKAGE, broken, ignore=shutil.ignore_patterns("__pycache__"))
    swap(broken / "locks/quorum.py", "if now_ms >= self.deadline_ms:", "if False:")
    swap(broken / "locks/quorum.py", "if young_ms > 0:", "if False:")

    run = run_nbval(LESSON, {"PYTHONPATH": str(tmp_path)})

    assert run.returncode == 1, run.stdout
    assert 'assert isinstance(duel.errors["Ada"], LockExpired)' in run.stdout
    assert 'assert kept.believed == ["Ada"]' in run.stdout
