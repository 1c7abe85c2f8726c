"""The committed notebooks, run again by strict nbval: each output comes out the same."""

from pathlib import Path

import pytest
from builder.normal import to_text
from builder.verify import run_nbval

from tests.lessons.notebook_parts import code, notebook, printed

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*/*.ipynb"))
CLOSING_LINES = 60


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "path", [pytest.param(it, id=f"{it.parent.name}/{it.name}") for it in NOTEBOOKS]
)
def test_a_committed_notebook_holds(path: Path) -> None:
    """Run again in a fresh kernel, every output that is not ignored is what is committed."""
    done = run_nbval(path)
    assert done.returncode == 0, "\n".join(done.stdout.splitlines()[-CLOSING_LINES:])


def test_nbval_turns_red_when_an_output_differs(tmp_path: Path) -> None:
    """A true output passes; the control: an output that is not what the cell prints fails."""
    true, false = tmp_path / "true.ipynb", tmp_path / "false.ipynb"
    true.write_text(to_text(notebook(code("print(1 + 1)", printed("2\n")))))
    false.write_text(to_text(notebook(code("print(1 + 1)", printed("3\n")))))

    assert run_nbval(true).returncode == 0
    done = run_nbval(false)

    assert done.returncode == 1
    assert "mismatch 'stdout'" in done.stdout


def test_the_environment_reaches_the_kernel(tmp_path: Path) -> None:
    """What is passed as `env` is what the cells see, so a broken package can be put first."""
    path = tmp_path / "lesson.ipynb"
    source = "import os; print(os.environ['LABSHOP_PROBE'])"
    path.write_text(to_text(notebook(code(source, printed("broken on purpose\n")))))

    assert run_nbval(path, {"LABSHOP_PROBE": "broken on purpose"}).returncode == 0
    assert run_nbval(path, {"LABSHOP_PROBE": "whole"}).returncode == 1
