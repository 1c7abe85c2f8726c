"""Give each plotly figure a picture, for readers whose page cannot draw it (GitHub, print).

The problem: a figure is data, drawn by JavaScript that GitHub does not run; and the same figure
drawn by another Chromium is a picture of other bytes.

The idea: an unchanged figure keeps the picture that is committed; only new ones are drawn, all by
one Chromium. So a rebuild without change needs no Chromium at all.

It does not promise a sharp print: a picture is `WIDTH_PX` wide, in at most 256 colours.
"""

import asyncio
import base64
import json
from typing import Any

import kaleido
from kaleido.errors import ChromeNotFoundError
from nbformat import NotebookNode

from builder.errors import BuildError
from builder.png import shrink
from labshop.lab.renderer import PLOTLY_MIME

PNG_MIME = "image/png"
WIDTH_PX = 900
_DEFAULT_HEIGHT_PX = 450
_TIMEOUT_S = 60


def committed_pictures(notebook: NotebookNode) -> dict[str, str]:
    """Return the picture of each figure that a committed notebook holds, by the figure's data."""
    return {
        _key(output.data): output.data[PNG_MIME]
        for output in _figure_outputs(notebook)
        if PNG_MIME in output.data
    }


def add_pictures(notebook: NotebookNode, pictures: dict[str, str]) -> None:
    """Put a PNG beside each plotly figure of an executed notebook, in place.

    Args:
        notebook: what has just run.
        pictures: known pictures by figure; those that are drawn here are added.

    Raises:
        BuildError: a figure is new and no Chromium is here to draw it.
    """
    outputs = _figure_outputs(notebook)
    fresh = {_key(output.data): output.data[PLOTLY_MIME] for output in outputs}
    for known in pictures.keys() & fresh.keys():
        del fresh[known]
    if fresh:
        pictures.update(zip(fresh, asyncio.run(_draw(list(fresh.values()))), strict=True))
    for output in outputs:
        output.data[PNG_MIME] = pictures[_key(output.data)]


def _figure_outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if PLOTLY_MIME in output.get("data", {})
    ]


def _key(data: dict[str, Any]) -> str:
    return json.dumps(data[PLOTLY_MIME], sort_keys=True)


async def _draw(figures: list[dict[str, Any]]) -> list[str]:
    try:
        # MathJax would be fetched from the network, which a build must not need.
        async with kaleido.Kaleido(n=1, timeout=_TIMEOUT_S, mathjax=False) as browser:
            return [await _picture(browser, figure) for figure in figures]
    except ChromeNotFoundError as error:
        raise BuildError(
            "A figure is new, and there is no Chromium to draw its picture. "
            "Install one (Debian: apt-get install chromium) or set BROWSER_PATH."
        ) from error


async def _picture(browser: kaleido.Kaleido, figure: dict[str, Any]) -> str:
    size = {"width": WIDTH_PX, "height": figure["layout"].get("height", _DEFAULT_HEIGHT_PX)}
    drawn = await browser.calc_fig(
        {"data": figure["data"], "layout": figure["layout"]}, opts={"format": "png", **size}
    )
    return base64.b64encode(shrink(drawn)).decode()
