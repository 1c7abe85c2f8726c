"""How every figure looks, and how it reaches a reader.

The problem: a chart that only its author can read (small type, red against green, no words)
teaches nobody in the back row, and a plotly figure drags 7 kB of default styling into a notebook.

The idea: one template of a few hundred bytes gives every chart the same large type and the
Okabe-Ito palette, whose colours stay apart for colour-blind readers. A figure is shown as data,
which JupyterLab draws, with its caption under it and as its stand-in where nothing can draw.

It does not promise a picture file: the notebook builder adds those when a lesson is written, so
that a learner needs no browser engine.
"""

import json
import textwrap
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio
from IPython.display import display

PLOTLY_MIME = "application/vnd.plotly.v1+json"
TEMPLATE = "labshop"

# Okabe and Ito, "Color Universal Design" (https://jfly.uni-koeln.de/color/).
INK = "#1A1A1A"
BLUE = "#0072B2"
SKY = "#56B4E9"
GREEN = "#009E73"
ORANGE = "#E69F00"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#D9D9D9"
WHITE = "#FFFFFF"

_STRIPES = {"fgcolor": "rgba(0,0,0,0.22)", "size": 10, "solidity": 0.25}

# A title of this width fits a phone.
_TITLE_CHARACTERS = 40


def new_figure(title: str, caption: str, *, min_width_px: int = 320) -> go.Figure:
    """Return an empty figure in the house style, which carries its caption.

    Args:
        title: what the chart is about, in one line; it wraps.
        caption: what must be seen, in words.
        min_width_px: below this a page should scroll sideways rather than squeeze the chart.
    """
    register_template()
    lines = textwrap.wrap(title, _TITLE_CHARACTERS)
    return go.Figure(
        layout={
            "template": TEMPLATE,
            # Plotly anchors a title by its last line.
            "title": {"text": "<br>".join(lines), "pad": {"t": 14 + 20 * (len(lines) - 1)}},
            "margin": {"t": 34 + 24 * len(lines)},
            "meta": {"caption": caption, "min_width_px": min_width_px},
        }
    )


def show(figure: go.Figure, caption: str | None = None) -> None:
    """Display a figure with its caption under it; the caption is also its plain-text stand-in.

    Args:
        figure: any plotly figure.
        caption: what must be seen, in words; by default the one that the figure carries.

    Raises:
        ValueError: there is no caption at all.
    """
    text = caption or (figure.layout.meta or {}).get("caption")
    if not text:
        raise ValueError("A figure needs a caption: not everybody can see it.")
    content: dict[str, Any] = json.loads(figure.to_json())
    content["config"] = {"displaylogo": False, "responsive": True}
    _display({PLOTLY_MIME: content, "text/plain": text})
    _display({"text/markdown": f"*{text}*", "text/plain": text})


def register_template() -> None:
    """Give plotly the template "labshop", once; each chart of this module asks for it."""
    if TEMPLATE in pio.templates:
        return
    axis = {"gridcolor": "#E8E8E8", "zeroline": False, "automargin": True}
    pio.templates[TEMPLATE] = go.layout.Template(
        layout={
            "colorway": [BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY],
            "font": {"family": "Arial, Helvetica, sans-serif", "size": 15, "color": INK},
            "title": {
                "x": 0,
                "xref": "container",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "font": {"size": 19},
                "pad": {"l": 12, "t": 14},
            },
            "paper_bgcolor": WHITE,
            "plot_bgcolor": WHITE,
            "margin": {"l": 12, "r": 18, "t": 64, "b": 12},
            "legend": {
                "orientation": "h",
                "x": 0.01,
                "xref": "container",
                "y": 0.01,
                "yref": "container",
                "yanchor": "bottom",
            },
            "xaxis": axis,
            "yaxis": axis,
        }
    )


def fill(colour: str, hatch: str = "") -> dict[str, Any]:
    """Return the marker of a bar: plain, or hatched so that its meaning needs no colour."""
    if not hatch:
        return {"color": colour}
    # Dark stripes on the colour, not white ones: white text on the bar stays legible.
    return {"color": colour, "pattern": {"shape": hatch, "bgcolor": colour, **_STRIPES}}


def _display(bundle: dict[str, Any]) -> None:
    display(bundle, raw=True)  # type: ignore[no-untyped-call] # IPython types its own half
