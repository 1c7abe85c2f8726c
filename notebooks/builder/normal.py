"""Bring an executed notebook into the one form that the same run always has.

The problem: timestamps, patch versions, chunks of output and random ids make every rebuild a
diff of hundreds of lines, in which nobody sees the one that matters.

The idea: keep what a reader sees and drop the rest. What truly differs from run to run is tagged
`nbval-ignore-output` by the author; such a cell keeps its committed outputs while its source stays
as it was.

It does not promise to hide differences: an untagged output is taken as it came.
"""

from typing import Any

import nbformat
from nbformat import NotebookNode

IGNORE_TAG = "nbval-ignore-output"

_KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
_LANGUAGE = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "pygments_lexer": "ipython3",
}
_RUN_KEYS = ("papermill", "execution", "widgets")


def normalise(notebook: NotebookNode, committed: NotebookNode | None) -> None:
    """Rewrite an executed notebook in place so that equal runs give equal bytes.

    Args:
        notebook: what has just run.
        committed: what is in the repository, for the outputs of ignored cells; or None.
    """
    for key in _RUN_KEYS:
        notebook.metadata.pop(key, None)
    notebook.metadata["kernelspec"] = dict(_KERNEL)
    notebook.metadata["language_info"] = dict(_LANGUAGE)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    kept = _kept_outputs(committed)
    count = 0
    for cell in notebook.cells:
        for key in _RUN_KEYS:
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            if is_ignored(cell) and cell.source in kept:
                cell.outputs = kept[cell.source]
            cell.outputs = _merge_streams(cell.outputs)
            _number_results(cell)


def is_ignored(cell: NotebookNode) -> bool:
    """Say whether a cell's outputs may differ from run to run."""
    return IGNORE_TAG in cell.metadata.get("tags", [])


def to_text(notebook: NotebookNode) -> str:
    """Return the bytes of the file as text, ending in one newline."""
    text: str = nbformat.writes(notebook, version=4)  # type: ignore[no-untyped-call] # has no types
    return text.rstrip("\n") + "\n"


def from_text(text: str) -> NotebookNode:
    """Return the notebook that `to_text` wrote."""
    notebook: NotebookNode = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call] # has no types
    return notebook


def _kept_outputs(committed: NotebookNode | None) -> dict[str, Any]:
    if committed is None:
        return {}
    return {
        cell.source: cell.outputs
        for cell in committed.cells
        if cell.cell_type == "code" and is_ignored(cell) and cell.execution_count
    }


def _merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def _number_results(cell: NotebookNode) -> None:
    for output in cell.outputs:
        output.pop("transient", None)
        if output.output_type == "execute_result":
            output.execution_count = cell.execution_count
