"""The charts of a lesson: timelines, sales against the stock, measured curves.

The problem: the numbers that prove a point do not show it to the back row of a lecture hall.

The idea: frozen values say what was counted or measured, and one function a kind of chart draws
them. Each bad outcome has a hatch or a symbol of its own, so that no meaning hangs on colour, and
every figure carries a caption that says in words what must be seen.

It does not promise to judge: whether a run was right is the judge's word, a chart repeats it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from labshop.lab.lanes import Band, Bar, Point, timeline
from labshop.lab.renderer import BLUE, INK, VERMILLION, fill, new_figure, show

__all__ = ["Band", "Bar", "Line", "Point", "Sale", "before_after", "curve", "show", "timeline"]

# What a column needs for the words above it.
_COLUMN_PX = 130


@dataclass(frozen=True, slots=True)
class Sale:
    """How many units one run sold, and how many there were."""

    name: str
    sold: int
    stock: int


@dataclass(frozen=True, slots=True)
class Line:
    """One measured series: its name and its (x, y) points, in the order of x."""

    name: str
    points: tuple[tuple[float, float], ...]


def before_after(sales: Sequence[Sale], *, title: str, caption: str) -> go.Figure:
    """Draw units sold against the stock; what was sold beyond it is red and hatched.

    Args:
        sales: one column each, left to right.
        title: one line above the chart.
        caption: what must be seen, in words.

    Returns:
        The figure, carrying its caption.
    """
    names = [sale.name for sale in sales]
    within = [min(sale.sold, sale.stock) for sale in sales]
    beyond = [max(sale.sold - sale.stock, 0) for sale in sales]
    figure = new_figure(title, caption, min_width_px=80 + _COLUMN_PX * len(sales))
    figure.add_bar(x=names, y=within, name="sold, in stock", marker={"color": BLUE})
    figure.add_bar(x=names, y=beyond, name="sold, never existed", marker=fill(VERMILLION, "/"))
    for column, sale in enumerate(sales):
        _add_stock_line(figure, column, sale)
    ceiling = max((max(sale.sold, sale.stock) for sale in sales), default=1)
    figure.update_layout(
        barmode="stack",
        bargap=0.45,
        height=430,
        yaxis={"title": {"text": "units"}, "range": [0, ceiling * 1.22]},
    )
    return figure


def curve(
    lines: Sequence[Line], *, title: str, caption: str, x_title: str, y_title: str
) -> go.Figure:
    """Draw measured points, joined by lines; each series has a symbol and a dash of its own.

    Args:
        lines: the series.
        title: one line above the chart.
        caption: what must be seen, in words.
        x_title: the x axis, with its unit.
        y_title: the y axis, with its unit; it starts at zero.

    Returns:
        The figure, carrying its caption.
    """
    symbols = ("circle", "square", "diamond", "triangle-up", "x")
    dashes = ("solid", "dash", "dot", "dashdot", "longdash")
    figure = new_figure(title, caption)
    for index, line in enumerate(lines):
        look = index % len(symbols)
        figure.add_scatter(
            x=[x for x, _ in line.points],
            y=[y for _, y in line.points],
            name=line.name,
            mode="lines+markers",
            line={"dash": dashes[look], "width": 3},
            marker={"symbol": symbols[look], "size": 11},
        )
    figure.update_layout(
        height=430,
        xaxis={"title": {"text": x_title}},
        yaxis={"title": {"text": y_title}, "rangemode": "tozero"},
    )
    return figure


def _add_stock_line(figure: go.Figure, column: int, sale: Sale) -> None:
    over = sale.sold - sale.stock
    if over > 0:
        verdict = f"<b>oversold by {over}</b>"
    elif over < 0:
        verdict = f"{-over} left"
    else:
        verdict = "exactly the stock"
    figure.add_shape(
        type="line",
        x0=column - 0.4,
        x1=column + 0.4,
        y0=sale.stock,
        y1=sale.stock,
        line={"color": INK, "width": 3, "dash": "dash"},
    )
    figure.add_annotation(
        x=column,
        y=max(sale.sold, sale.stock),
        yshift=26,
        showarrow=False,
        text=f"sold {sale.sold} of {sale.stock}<br>{verdict}",
    )
