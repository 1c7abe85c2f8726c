"""The limits of a notebook: each one is broken once, beside a control that breaks none."""

from collections.abc import Callable
from pathlib import Path

import pytest
from builder.limits import MAX_BYTES, REPOSITORY, problems
from nbformat import NotebookNode

from tests.lessons.notebook_parts import code, notebook, printed, prose


def good() -> NotebookNode:
    """Return an executed notebook of seven code cells, one of them ignored, and some prose."""
    whole = notebook(
        prose("# A title\n\n[source](lesson.py), [web](https://example.org/x)"),
        *(code(f"print({it})", printed(f"{it}\n"), count=it) for it in range(1, 8)),
    )
    whole.cells[1].metadata["tags"] = ["nbval-ignore-output"]
    return whole


def unrun(whole: NotebookNode) -> None:
    whole.cells[3].execution_count = None


def strip(whole: NotebookNode) -> None:
    for cell in whole.cells[1:]:
        cell.outputs = []


def ignore_two(whole: NotebookNode) -> None:
    whole.cells[2].metadata["tags"] = ["nbval-ignore-output"]


def swell(whole: NotebookNode) -> None:
    whole.cells[2].outputs[0].text = "x" * MAX_BYTES


def fail(whole: NotebookNode) -> None:
    error = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
    whole.cells[2].outputs = notebook(code("raise ValueError", error)).cells[0].outputs


def warn(whole: NotebookNode) -> None:
    whole.cells[2].outputs[0].name = "stderr"


def tell_address(whole: NotebookNode) -> None:
    whole.cells[2].outputs[0].text = "<Lock object at 0x7f3a5c0d1e90>"


def tell_repository(whole: NotebookNode) -> None:
    whole.cells[2].outputs[0].text = f"{REPOSITORY}/labshop/lua.py"


def tell_home(whole: NotebookNode) -> None:
    whole.cells[2].outputs[0].text = f"loaded {Path.home()}/.labshop"


def link_nowhere(whole: NotebookNode) -> None:
    whole.cells[0].source += "\n[next](../99_nothing/lesson.ipynb#top)"


def show_nothing(whole: NotebookNode) -> None:
    whole.cells[0].source += '\n<img alt="a plan" src="plan.svg">'


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (unrun, "has not been run"),
        (strip, "the notebook was stripped"),
        (ignore_two, "2 of 7 code cells ignore their output"),
        (swell, "the limit is 300,000"),
        (fail, "ends in an error: ValueError: no"),
        (warn, "prints to stderr"),
        (tell_address, "memory address: 0x7f3a5c0d1e90"),
        (tell_repository, f"path of this machine: {REPOSITORY}"),
        (tell_home, f"path of this machine: {Path.home()}"),
        (link_nowhere, "links to ../99_nothing/lesson.ipynb#top"),
        (show_nothing, "links to plan.svg"),
    ],
)
def test_a_broken_limit_is_named(
    tmp_path: Path, spoil: Callable[[NotebookNode], None], reason: str
) -> None:
    """The notebook keeps to every limit; spoilt in one way, exactly that is named."""
    (tmp_path / "lesson.py").touch()
    whole = good()
    assert problems(whole, tmp_path) == []

    spoil(whole)

    found = problems(whole, tmp_path)
    assert any(reason in each for each in found)
    # A clone may lie in the home folder, or among temporary ones: then its path is named twice.
    assert len(found) == 1 or all("path of this machine" in each for each in found)


def test_links_in_code_are_no_links(tmp_path: Path) -> None:
    """What looks like a link inside code, inline or fenced, is left alone."""
    whole = good()
    whole.cells[0].source = "`a[0](x)` and\n```\n[b](c)\n```"
    assert problems(whole, tmp_path) == []
