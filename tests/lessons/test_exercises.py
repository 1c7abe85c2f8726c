"""What a learner finds: an exercise that waits for them, and a solution that holds."""

from pathlib import Path

import pytest
from builder.normal import from_text

FOLDER = Path(__file__).parents[2] / "notebooks"


def printed(notebook: Path) -> str:
    """All that the cells of a committed notebook printed."""
    cells = from_text(notebook.read_text("utf-8")).cells
    outputs = (output for cell in cells for output in cell.get("outputs", []))
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize("lesson", ["01_setnx"])
def test_the_exercise_waits_and_its_solution_holds(lesson: str) -> None:
    """Untouched, each property is TODO and none is called wrong; solved, all points are there."""
    waiting, solved = (
        printed(FOLDER / lesson / name) for name in ("lesson.ipynb", "solution.ipynb")
    )

    assert waiting.count("TODO") == 6
    assert "FAIL" not in waiting
    assert "the reference is used" in waiting
    assert "10 of 10 points" in solved
    assert "your own solution is used" in solved
