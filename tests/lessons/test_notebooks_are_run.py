"""Guard: what is committed was run, whole, from the source beside it.

Strict nbval passes any notebook without outputs, so this guard stands before it.
"""

from pathlib import Path

import pytest
from builder.limits import problems
from builder.normal import from_text
from builder.source import Variant, read

FOLDER = Path(__file__).parents[2] / "notebooks"
LESSONS = sorted(path.parent for path in FOLDER.glob("[0-9]*/lesson.py"))
NOTEBOOKS = [
    pytest.param(lesson, variant, id=f"{lesson.name}/{variant.value}")
    for lesson in LESSONS
    for variant in Variant
]


def test_no_notebook_is_outside_the_lessons() -> None:
    """Each committed notebook belongs to a lesson, and each lesson has both."""
    found = {path for path in FOLDER.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts}
    assert found == {lesson / variant.value for lesson in LESSONS for variant in Variant}


@pytest.mark.parametrize(("lesson", "variant"), NOTEBOOKS)
def test_a_committed_notebook_was_run(lesson: Path, variant: Variant) -> None:
    """Every cell was run, none failed, few are ignored, and all limits are kept; the control:
    the same notebook with its outputs stripped is refused.
    """
    notebook = from_text((lesson / variant.value).read_text("utf-8"))
    assert problems(notebook, lesson) == []

    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    refused = problems(notebook, lesson)

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("has not been run" in reason for reason in refused) == len(code)
    assert "No cell has an output: the notebook was stripped." in refused


@pytest.mark.parametrize(("lesson", "variant"), NOTEBOOKS)
def test_a_committed_notebook_says_what_its_source_says(lesson: Path, variant: Variant) -> None:
    """A lesson.py that was edited and not built again is noticed without running it."""
    committed = from_text((lesson / variant.value).read_text("utf-8"))
    assert [(cell.id, cell.source) for cell in committed.cells] == [
        (cell.id, cell.source) for cell in read(lesson, variant).cells
    ]
