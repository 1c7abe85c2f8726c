"""Turn a built notebook into one HTML file that works without a network.

The problem: nbconvert shows a plotly figure as its picture only, and its pages load scripts from
servers that a lecture hall may not reach.

The idea: each figure becomes HTML with its caption as its name for screen readers; plotly.js is
written into the page once. A chart that a narrow screen would squeeze scrolls sideways instead.

It does not promise mathematics: formulas would need MathJax from the network.
"""

import html
from pathlib import Path
from typing import Any

import plotly.io as pio
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from plotly.offline import get_plotlyjs

from builder.normal import from_text
from labshop.lab.renderer import PLOTLY_MIME

_HEAD = f"""
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
  .labshop-chart {{ margin: 0; overflow-x: auto; }}
  body.jp-Notebook {{ padding: 12px; }}
  @media (max-width: 640px) {{ .jp-InputPrompt, .jp-OutputPrompt {{ display: none; }} }}
</style>
<script>{get_plotlyjs()}</script>
"""


def to_html(notebook: Path) -> str:
    """Return the page of a notebook, as it is committed, with charts that can be explored.

    Args:
        notebook: an .ipynb file with outputs.
    """
    content = from_text(notebook.read_text("utf-8"))
    for number, output in enumerate(_figures(content)):
        output.data = {"text/html": _chart(output.data, f"chart-{number}")}
    # Empty addresses keep nbconvert from adding scripts that a page offline cannot load.
    exporter = HTMLExporter(  # type: ignore[no-untyped-call] # nbconvert types its own half
        require_js_url="", mathjax_url="", mermaid_js_url="", jquery_url=""
    )
    body, _ = exporter.from_notebook_node(content, {"metadata": {"name": notebook.parent.name}})
    return body.replace("</head>", f"{_HEAD}</head>", 1)


def _figures(notebook: NotebookNode) -> list[NotebookNode]:
    return [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if PLOTLY_MIME in output.get("data", {})
    ]


def _chart(data: dict[str, Any], name: str) -> str:
    figure = data[PLOTLY_MIME]
    drawing = pio.to_html(
        {"data": figure["data"], "layout": figure["layout"]},
        config=figure.get("config"),
        include_plotlyjs=False,
        include_mathjax=False,
        full_html=False,
        div_id=name,
        validate=False,
    )
    caption = html.escape(str(data.get("text/plain", "")), quote=True)
    width_px = int(figure["layout"].get("meta", {}).get("min_width_px", 0))
    return (
        f'<figure class="labshop-chart" role="img" aria-label="{caption}">'
        f'<div style="min-width: {width_px}px">{drawing}</div></figure>'
    )
