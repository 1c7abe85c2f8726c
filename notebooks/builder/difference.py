"""Say in a few lines how a rebuilt notebook differs from the committed one.

The problem: a diff of two notebooks is pages of JSON.

The idea: name the first cell that differs and show a short diff of that cell alone.

It does not promise to show every difference; after the first is mended, the next one shows.
"""

import difflib
import json
from itertools import zip_longest

from nbformat import NotebookNode

_MAX_LINES = 30
_MAX_CHARACTERS = 140


def first_difference(committed: NotebookNode, built: NotebookNode) -> str:
    """Return the first cell that differs and how, or an empty string when nothing does.

    Args:
        committed: the notebook in the repository.
        built: the notebook of this run.
    """
    for number, (old, new) in enumerate(zip_longest(committed.cells, built.cells), start=1):
        if old != new:
            title = (new or old).source.strip().splitlines()[0]
            return f"cell {number} ({title[:60]!r}) differs:\n{_diff(old, new)}"
    if committed.metadata != built.metadata:
        return f"the metadata differs:\n{_diff(committed.metadata, built.metadata)}"
    return ""


def _diff(old: NotebookNode | None, new: NotebookNode | None) -> str:
    lines = list(
        difflib.unified_diff(_pretty(old), _pretty(new), "committed", "built", lineterm="", n=1)
    )
    shown = [line[:_MAX_CHARACTERS] for line in lines[:_MAX_LINES]]
    if len(lines) > _MAX_LINES:
        shown.append(f"... and {len(lines) - _MAX_LINES} more lines")
    return "\n".join(shown)


def _pretty(node: NotebookNode | None) -> list[str]:
    if node is None:
        return []
    text = json.dumps(node, indent=1, sort_keys=True, ensure_ascii=False)
    return text.replace("\\n", "\n").splitlines()
