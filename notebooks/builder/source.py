"""Read a `lesson.py` and split it into the learner's notebook and the solution.

The problem: two notebooks that differ in a few lines, kept by hand, soon differ in more.

The idea: the source runs as it stands, with the solution in it. A region says what the learner
gets instead, as comments, right after it:

    # BEGIN SOLUTION
    return await node.command("SET", key, token, "NX", "PX", ttl_ms) == "OK"
    # END SOLUTION
    # BEGIN STUB
    # raise NotImplementedError("write acquire() here")
    # END STUB

It does not promise to understand Python: markers are whole lines, each pair within one cell.
"""

import hashlib
import re
from collections import Counter
from enum import Enum
from pathlib import Path

import jupytext
from nbformat import NotebookNode

from builder.errors import BuildError

_MARKER = re.compile(r"^\s*# (BEGIN|END) (SOLUTION|STUB)\s*$")
_COMMENT = re.compile(r"^(\s*)# ?(.*)$")
# What must come next after each state; a region is these four markers in this order.
_NEXT = {
    "outside": "BEGIN SOLUTION",
    "BEGIN SOLUTION": "END SOLUTION",
    "END SOLUTION": "BEGIN STUB",
    "BEGIN STUB": "END STUB",
}
# What jupytext notes for its own round trips, of no use to a reader.
_JUPYTEXT_KEYS = ("lines_to_next_cell", "lines_to_end_of_cell_marker")


class Variant(Enum):
    """The two notebooks of a lesson; the value is the file's name."""

    LEARNER = "lesson.ipynb"
    SOLUTION = "solution.ipynb"


def read(lesson: Path, variant: Variant) -> NotebookNode:
    """Return one variant of a lesson as a notebook that has not run.

    Args:
        lesson: the folder that holds `lesson.py`.
        variant: whose notebook.

    Returns:
        A notebook with stable cell ids; its first cell's metadata names the source.

    Raises:
        BuildError: there is no source, it has no cell, or a region is not closed.
    """
    path = lesson / "lesson.py"
    if not path.is_file():
        raise BuildError(f"{lesson} has no lesson.py.")
    notebook: NotebookNode = jupytext.reads(path.read_text("utf-8"), fmt="py:percent")
    notebook.cells = [cell for cell in notebook.cells if cell.source.strip()]
    if not notebook.cells:
        raise BuildError(f"{path} has no cell.")
    notebook.metadata.pop("jupytext", None)
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = choose(cell.source, variant)
        for key in _JUPYTEXT_KEYS:
            cell.metadata.pop(key, None)
        cell.id = _cell_id(lesson.name, cell, seen)
    source = f"{lesson.parent.name}/{lesson.name}/lesson.py"
    notebook.cells[0].metadata["labshop"] = {"source": source}
    return notebook


def choose(source: str, variant: Variant) -> str:
    """Return a cell's source as one variant shows it, without markers.

    Args:
        source: the cell as `lesson.py` has it.
        variant: the solution keeps its solution; the learner gets the stub.

    Raises:
        BuildError: markers out of order, or a stub line that is not a comment.
    """
    lines = []
    state = "outside"
    for line in source.splitlines():
        marker = _MARKER.match(line)
        if marker:
            state = _after(state, " ".join(marker.groups()), source)
        elif state == "outside" or (state == "BEGIN SOLUTION" and variant is Variant.SOLUTION):
            lines.append(line)
        elif state == "BEGIN STUB" and variant is Variant.LEARNER:
            lines.append(_uncomment(line, source))
        elif state == "END SOLUTION" and line.strip():
            raise BuildError(f"{line!r} stands between a solution and its stub in:\n{source}")
    if state != "outside":
        raise BuildError(f"# {_NEXT[state]} is missing in this cell:\n{source}")
    return "\n".join(lines)


def _after(state: str, marker: str, source: str) -> str:
    if marker != _NEXT[state]:
        raise BuildError(f"# {marker} stands where # {_NEXT[state]} is due, in:\n{source}")
    return "outside" if marker == "END STUB" else marker


def _uncomment(line: str, source: str) -> str:
    if not line.strip():
        return ""
    comment = _COMMENT.match(line)
    if comment is None:
        raise BuildError(f"{line!r} is in a stub but not a comment, in:\n{source}")
    return (comment[1] + comment[2]).rstrip()


def _cell_id(lesson: str, cell: NotebookNode, seen: Counter[str]) -> str:
    # By content and not by place, so that a new cell changes no other cell's id.
    digest = hashlib.sha256(f"{lesson}\n{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
    seen[digest] += 1
    return digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
