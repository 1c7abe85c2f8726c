"""Notebooks for the tests of the builder, from plain values."""

import json
from typing import Any

from builder.normal import from_text
from nbformat import NotebookNode


def notebook(*cells: dict[str, Any]) -> NotebookNode:
    """Return a notebook of these cells, as if read from a file."""
    numbered = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)]
    content = {"cells": numbered, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return from_text(json.dumps(content))


def prose(source: str) -> dict[str, Any]:
    """Return a markdown cell."""
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def code(source: str, *outputs: dict[str, Any], count: int = 1) -> dict[str, Any]:
    """Return a code cell that was run as number `count`."""
    return {
        "cell_type": "code",
        "execution_count": count,
        "metadata": {},
        "outputs": list(outputs),
        "source": source,
    }


def printed(text: str) -> dict[str, Any]:
    """Return what a cell printed."""
    return {"output_type": "stream", "name": "stdout", "text": text}


def displayed(data: dict[str, Any]) -> dict[str, Any]:
    """Return what a cell displayed, by mimetype."""
    return {"output_type": "display_data", "data": data, "metadata": {}}
