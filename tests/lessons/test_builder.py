"""The builder of the lessons: same source, same bytes; what is wrong is named, never written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builder.errors import BuildError
from builder.normal import from_text
from builder.source import Variant, choose
from nbformat import NotebookNode

BUILD = Path(__file__).parents[2] / "notebooks" / "build.py"
SAMPLE = Path(__file__).parent / "sample" / "lesson.py"

CELL = """\
def left(stock, sold):
    # BEGIN SOLUTION
    return stock - sold
    # END SOLUTION
    # BEGIN STUB
    # if stock:
    #     return -1  # your answer
    # END STUB
"""


@pytest.fixture
def lesson(tmp_path: Path) -> Path:
    """A copy of the sample lesson that has not been built."""
    folder = tmp_path / "notebooks" / "01_sample"
    folder.mkdir(parents=True)
    shutil.copy(SAMPLE, folder)
    return folder


def run(lesson: Path, *options: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Build a lesson as `make notebooks` does; return the exit code and what it said."""
    done = subprocess.run(
        [sys.executable, str(BUILD), str(lesson), *options],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def edit(lesson: Path, old: str, new: str) -> None:
    source = lesson / "lesson.py"
    text = source.read_text("utf-8")
    assert old in text
    source.write_text(text.replace(old, new), "utf-8")


def built(lesson: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(lesson.glob("*.ipynb"))}


def test_a_rebuild_without_change_is_byte_identical(lesson: Path) -> None:
    """A second build gives the same bytes, although one ignored cell prints the time; the
    control: when that cell's source changes, its output does too.
    """
    code, said = run(lesson)
    assert code == 0, said
    first = built(lesson)
    assert list(first) == ["lesson.ipynb", "solution.ipynb"]

    code, said = run(lesson)
    assert (code, built(lesson)) == (0, first), said

    clock = _clock_cell(lesson)
    edit(lesson, "time.time_ns()", "time.time_ns() + 0")
    assert run(lesson)[0] == 0
    assert _clock_cell(lesson).outputs != clock.outputs


def test_check_names_the_first_differing_cell_and_writes_nothing(lesson: Path) -> None:
    """`--check` passes what is up to date, and says which cell differs of what is not."""
    assert run(lesson)[0] == 0
    before = built(lesson)
    assert run(lesson, "--check")[0] == 0

    edit(lesson, 'print("a line from", "the end")', 'print("another line from", "the end")')
    code, said = run(lesson, "--check")

    assert code == 1
    assert "01_sample/lesson.ipynb: cell 7" in said
    assert built(lesson) == before


def test_a_failing_cell_is_shown_and_nothing_is_written(lesson: Path) -> None:
    """A cell that raises ends the build with its source and its error, before any file."""
    edit(lesson, "assert STOCK == 3", 'assert STOCK == 4, "the stock is wrong"')

    code, said = run(lesson)

    assert code == 1
    assert "01_sample/lesson.ipynb: Cell [5] failed" in said
    assert 'assert STOCK == 4, "the stock is wrong"' in said
    assert "AssertionError: the stock is wrong" in said
    assert "Traceback" not in said
    assert built(lesson) == {}


def test_a_broken_limit_ends_the_build(lesson: Path) -> None:
    """A lesson that prints a path of this machine is not written."""
    edit(lesson, 'print("another line")', "print(__import__('os').getcwd())")

    code, said = run(lesson)

    assert code == 1
    assert "prints a path of this machine" in said
    assert built(lesson) == {}


def test_notebooks_differ_in_the_answer_only(lesson: Path) -> None:
    """The learner's notebook has the stub, the solution the answer, neither has a marker."""
    assert run(lesson)[0] == 0
    learner, solution = (from_text((lesson / variant.value).read_text()) for variant in Variant)

    pairs = zip(learner.cells, solution.cells, strict=True)
    differing = [(ours.source, theirs.source) for ours, theirs in pairs if ours.id != theirs.id]

    assert len(differing) == 1
    assert "return -1  # write your answer here" in differing[0][0]
    assert "return max(stock - sold, 0)" in differing[0][1]
    assert "BEGIN" not in "".join(differing[0])
    assert learner.cells[0].metadata["labshop"] == {"source": "notebooks/01_sample/lesson.py"}
    assert [cell.execution_count for cell in learner.cells[1:]] == [1, 2, 3, 4, 5, 6, 7]
    assert learner.cells[3].outputs[0].text == "left: -1\n"


def test_a_region_becomes_stub_or_solution() -> None:
    """Stub lines lose one comment sign and keep their indentation."""
    assert choose(CELL, Variant.LEARNER).splitlines() == [
        "def left(stock, sold):",
        "    if stock:",
        "        return -1  # your answer",
    ]
    assert choose(CELL, Variant.SOLUTION).splitlines() == [
        "def left(stock, sold):",
        "    return stock - sold",
    ]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("    # END STUB\n", "", "# END STUB is missing"),
        ("    # BEGIN STUB\n", "", "between a solution and its stub"),
        ("    # END SOLUTION\n", "", "# BEGIN STUB stands where # END SOLUTION is due"),
        ("    # BEGIN SOLUTION\n", "", "# END SOLUTION stands where # BEGIN SOLUTION is due"),
        ("    # if stock:", "    if stock:", "in a stub but not a comment"),
    ],
)
def test_a_malformed_region_is_refused(old: str, new: str, reason: str) -> None:
    """A region with a marker amiss is refused, whichever notebook is built."""
    assert old in CELL
    for variant in Variant:
        if variant is Variant.SOLUTION and "not a comment" in reason:
            continue  # the solution never reads its stub
        with pytest.raises(BuildError, match=reason):
            choose(CELL.replace(old, new), variant)


def _clock_cell(lesson: Path) -> NotebookNode:
    notebook = from_text((lesson / "lesson.ipynb").read_text("utf-8"))
    (clock,) = [cell for cell in notebook.cells if "time_ns" in cell.source]
    assert isinstance(clock, NotebookNode)
    return clock
