"""Lesson 2 proves something: each defect that it is about must turn it red."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from builder.verify import run_nbval

from tests.lessons.test_broken_shop_is_seen import PACKAGE, swap

LESSON = PACKAGE.parent / "notebooks/02_multilock/lesson.ipynb"


def locks_as_named(package: Path) -> None:
    """Nothing sorts any more: locks are taken as the buyer names the products."""
    swap(package / "shop/domain.py", "in sorted(quantities)", "in quantities")
    swap(package / "locks/multi.py", "in sorted(by_key)", "in by_key")
    swap(
        package / "locks/single.py",
        "sorted({self.key, *others})",
        "dict.fromkeys((self.key, *others))",
    )


def one_line_comes_back(package: Path) -> None:
    """Of a reservation that is given up, only one product goes back on sale."""
    swap(
        package / "storage/lua/release_reservation.lua",
        "if product then",
        "if product and units == 0 then",
    )


def nobody_gives_way(package: Path) -> None:
    """The detector sees no circle in any graph."""
    swap(package / "locks/lua/wait_for.lua", "if holder ~= owner then", "if true then")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("break_it", "verdict"),
    [
        (locks_as_named, "assert await lab.sold(product) == BUYERS"),
        (one_line_comes_back, "assert await left_everywhere() =="),
        (nobody_gives_way, "was not free within 10000 ms"),
    ],
)
def test_a_broken_shop_turns_lesson_2_red(
    tmp_path: Path, break_it: Callable[[Path], None], verdict: str
) -> None:
    """With a defect in the package, strict nbval fails, and shows what was seen."""
    broken = tmp_path / "labshop"
    shutil.copytree(PACKAGE, broken, ignore=shutil.ignore_patterns("__pycache__"))
    break_it(broken)

    run = run_nbval(LESSON, {"PYTHONPATH": str(tmp_path)})

    assert run.returncode == 1, run.stdout
    assert verdict in run.stdout
