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


@pytest.mark.parametrize(
    ("lesson", "properties", "points"),
    [
        ("01_setnx", 6, ["10 of 10"]),
        ("02_multilock", 9 + 3, ["10 of 10", "5 of 5"]),
        ("03_redlock", 8, ["12 of 12"]),
    ],
)
def test_the_exercises_wait_and_their_solutions_hold(
    lesson: str, properties: int, points: list[str]
) -> None:
    """Untouched, each property is TODO and none is called wrong; solved, all points are there."""
    waiting, solved = (
        printed(FOLDER / lesson / name) for name in ("lesson.ipynb", "solution.ipynb")
    )

    assert waiting.count("TODO") == properties
    assert "FAIL" not in waiting
    assert waiting.count("the reference is used") == len(points)
    assert all(f"{total} points" in solved for total in points)
    assert solved.count("your own solution is used") == len(points)
