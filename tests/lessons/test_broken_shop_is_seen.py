"""A lesson that holds for a broken package proves nothing: each defect must turn it red."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from builder.verify import run_nbval

import labshop

PACKAGE = Path(labshop.__file__).parent
LESSON = PACKAGE.parent / "notebooks/01_setnx/lesson.ipynb"


def swap(file: Path, old: str, new: str) -> None:
    """Replace a text that must be there."""
    source = file.read_text()
    assert old in source, f"{file.name} has changed; this defect must be planted anew"
    file.write_text(source.replace(old, new))


def release_by_plain_del(package: Path) -> None:
    """The release no longer looks whose lock it is."""
    swap(package / "locks/lua/release_locks.lua", "holder == ARGV[1]", "true")


def oversell_by_one(package: Path) -> None:
    """Gate and ledger sell one unit more than there is."""
    swap(package / "storage/lua/reserve_stock.lua", "if left < wanted", "if left + 1 < wanted")
    swap(
        package / "storage/booking.py",
        "if stock.left < quantity",
        "if stock.left + 1 < quantity",
    )
    swap(package / "storage/statements.py", "stock_left >= ?", "stock_left + 1 >= ?")
    swap(
        package / "storage/migrations/versions/r0001_shop.py", "stock_left >= 0", "stock_left >= -1"
    )


@pytest.mark.parametrize(
    ("break_it", "verdict"),
    [
        (release_by_plain_del, "assert (by_del, by_v1)"),
        (oversell_by_one, "assert receipts == books.sold == STOCK"),
    ],
)
def test_a_broken_shop_turns_the_lesson_red(
    tmp_path: Path, break_it: Callable[[Path], None], verdict: str
) -> None:
    """With a defect in the package, strict nbval fails, and shows what was seen."""
    broken = tmp_path / "labshop"
    shutil.copytree(PACKAGE, broken, ignore=shutil.ignore_patterns("__pycache__"))
    break_it(broken)

    run = run_nbval(LESSON, {"PYTHONPATH": str(tmp_path)})

    assert run.returncode == 1, run.stdout
    assert verdict in run.stdout
