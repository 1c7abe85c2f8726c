"""What a notebook must keep to before it may be committed.

The problem: a notebook that never ran, or whose checks are mostly ignored, passes every check of
its outputs; one that carries a path of its author's machine fails on every other.

The idea: read the finished notebook as a stranger would, and name everything that is wrong at
once.

It does not promise that what is written is true; running it again (`verify`) shows that.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from builder.normal import is_ignored, to_text
from builder.source import Variant

MAX_BYTES = 300_000
MAX_IGNORED_SHARE = 0.15
REPOSITORY = Path(__file__).resolve().parents[2]

_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{8,}")
_CODE_IN_PROSE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|<(?:img|a)\b[^>]*?(?:src|href)=[\"']([^\"']+)")
_ELSEWHERE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:|#|//)", re.IGNORECASE)


def problems(notebook: NotebookNode, folder: Path) -> list[str]:
    """Return one sentence for each limit that an executed notebook breaks.

    Args:
        notebook: the finished notebook.
        folder: the lesson's folder, from which relative links start.
    """
    found = [*_unrun(notebook), *_too_large(notebook), *_too_much_ignored(notebook)]
    for cell in notebook.cells:
        found += _bad_outputs(cell) if cell.cell_type == "code" else _dead_links(cell, folder)
    return found


def _unrun(notebook: NotebookNode) -> Iterator[str]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        if cell.execution_count is None:
            yield f"{_name(cell)} has not been run."
    if code and not any(cell.outputs for cell in code):
        yield "No cell has an output: the notebook was stripped."


def _too_large(notebook: NotebookNode) -> Iterator[str]:
    size = len(to_text(notebook).encode())
    if size > MAX_BYTES:
        yield f"The notebook has {size:,} bytes; the limit is {MAX_BYTES:,}."


def _too_much_ignored(notebook: NotebookNode) -> Iterator[str]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    ignored = sum(is_ignored(cell) for cell in code)
    if ignored > MAX_IGNORED_SHARE * len(code):
        yield (
            f"{ignored} of {len(code)} code cells ignore their output; "
            f"at most {MAX_IGNORED_SHARE:.0%} may."
        )


def _bad_outputs(cell: NotebookNode) -> Iterator[str]:
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"{_name(cell)} ends in an error: {output.ename}: {output.evalue}"
        if output.get("name") == "stderr":
            yield f"{_name(cell)} prints to stderr: {output.text.strip()[:200]}"
    text = json.dumps([_readable(output) for output in cell.outputs], ensure_ascii=False)
    if match := _ADDRESS.search(text):
        yield f"{_name(cell)} prints a memory address: {match[0]}"
    for path in _machine_paths():
        if re.search(re.escape(path) + r"(?![\w-])", text):
            yield f"{_name(cell)} prints a path of this machine: {path}"


def _readable(output: NotebookNode) -> dict[str, Any]:
    # A picture's base64 text may hold any letters; it is not prose.
    data = {mime: value for mime, value in output.get("data", {}).items() if mime != "image/png"}
    return {**output, "data": data}


def _machine_paths() -> set[str]:
    paths = {REPOSITORY, Path.home(), Path(tempfile.gettempdir())}
    return {str(path) for path in paths if path != Path("/")}


def _dead_links(cell: NotebookNode, folder: Path) -> Iterator[str]:
    prose = _CODE_IN_PROSE.sub("", cell.source)
    for match in _LINK.finditer(prose):
        target = match[1] or match[2]
        if _ELSEWHERE.match(target) or target.startswith("attachment:"):
            continue
        path = re.split(r"[#?]", target)[0]
        if path not in {variant.value for variant in Variant} and not (folder / path).exists():
            yield f"{_name(cell)} links to {target}, which is not there."


def _name(cell: NotebookNode) -> str:
    first = cell.source.strip().splitlines()[0] if cell.source.strip() else "(empty)"
    return f"Cell {cell.get('id', '?')} ({first[:60]!r})"
