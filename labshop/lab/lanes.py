"""Timelines: what each client and each node did, step by step.

The problem: a race is invisible in a list of log lines, because each line is right by itself.

The idea: one lane for each client and each node; what lasts (a lease, a wait, a pause) is a bar
under the lane's line, what happens at once (a command, an order) is a point on it, and a fault
is a band over all lanes. A few frozen values say what happened, this module what it looks like.

It does not promise a scale: a timeline in logical steps shows order, never duration.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import plotly.graph_objects as go

from labshop.lab.renderer import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    WHITE,
    fill,
    new_figure,
)

# A label breaks where it still fits between two steps.
_LABEL_CHARACTERS = 13
MOST_STEP_LINES = 15
# Narrower than this, the labels of neighbouring steps run into each other.
_MIN_WIDTH_PX = 640

BarKind = Literal["lease", "expired", "wait", "pause", "booked", "turned away", "no answer", "seen"]
PointKind = Literal["command", "committed", "refused", "crash", "stock", "contradiction"]


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that lasts in a lane, from `start` to `end` (milliseconds or logical steps)."""

    lane: str
    start: float
    end: float
    kind: BarKind
    text: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """Something that happens in a lane at one instant (milliseconds or logical steps)."""

    lane: str
    at: float
    kind: PointKind
    text: str = ""


@dataclass(frozen=True, slots=True)
class Band:
    """A fault that lies over all lanes, from `start` to `end` (milliseconds or logical steps)."""

    start: float
    end: float
    text: str


class _BarLook(NamedTuple):
    label: str
    colour: str
    hatch: str
    ink: str


class _PointLook(NamedTuple):
    label: str
    colour: str
    symbol: str
    size: int


_BARS: dict[BarKind, _BarLook] = {
    "lease": _BarLook("holds the lease", BLUE, "", WHITE),
    "expired": _BarLook("lease is over, holder does not know", VERMILLION, "/", WHITE),
    "wait": _BarLook("waits", GREY, "", INK),
    "pause": _BarLook("stands still", ORANGE, "\\", INK),
    "booked": _BarLook("asked, and got an order", GREEN, "", WHITE),
    "turned away": _BarLook("asked, and was refused", GREY, "/", INK),
    "no answer": _BarLook("asked, and nobody knows", ORANGE, "x", INK),
    "seen": _BarLook("looked", SKY, "", INK),
}
_POINTS: dict[PointKind, _PointLook] = {
    "command": _PointLook("command", INK, "circle", 11),
    "committed": _PointLook("committed", GREEN, "diamond", 15),
    "refused": _PointLook("refused", VERMILLION, "x", 13),
    "crash": _PointLook("crash", PURPLE, "hourglass", 15),
    "stock": _PointLook("stock", INK, "square", 11),
    "contradiction": _PointLook("cannot be", VERMILLION, "star", 19),
}


def timeline(
    events: Sequence[Bar | Point | Band],
    *,
    title: str,
    caption: str,
    unit: Literal["step", "ms"] = "step",
) -> go.Figure:
    """Draw who did what when: one lane per client and node, in the order they first appear.

    Args:
        events: bars, points and bands; all times in `unit`.
        title: one line above the chart.
        caption: what must be seen, in words, for readers who cannot see the chart.
        unit: "step" for a forced schedule (the same in every run), "ms" for a measured one.

    Returns:
        The figure, carrying its caption.

    Raises:
        ValueError: no event names a lane, or an event has an unknown kind.
    """
    bars = [event for event in events if isinstance(event, Bar)]
    points = [event for event in events if isinstance(event, Point)]
    bands = [event for event in events if isinstance(event, Band)]
    lanes = list(dict.fromkeys(event.lane for event in events if not isinstance(event, Band)))
    _check(bars, points)
    figure = new_figure(title, caption, min_width_px=_MIN_WIDTH_PX)
    for bar_kind in _BARS:
        _add_bars(figure, lanes, [bar for bar in bars if bar.kind == bar_kind])
    for point_kind in _POINTS:
        _add_points(figure, lanes, [point for point in points if point.kind == point_kind])
    for band in bands:
        _add_band(figure, band)
    _lay_out_lanes(figure, lanes, points, bands, unit)
    return figure


def _check(bars: list[Bar], points: list[Point]) -> None:
    if not bars and not points:
        raise ValueError("A timeline needs at least one Bar or Point.")
    strange = {bar.kind for bar in bars} - _BARS.keys() | {
        it.kind for it in points
    } - _POINTS.keys()
    if strange:
        known = ", ".join((*_BARS, *_POINTS))
        raise ValueError(f"Unknown kind {', '.join(sorted(strange))}; known are {known}.")


def _add_bars(figure: go.Figure, lanes: list[str], bars: list[Bar]) -> None:
    if not bars:
        return
    look = _BARS[bars[0].kind]
    figure.add_bar(
        orientation="h",
        name=look.label,
        base=[bar.start for bar in bars],
        x=[bar.end - bar.start for bar in bars],
        # Bars hang under their lane's line, so that they never hide a point's label above it.
        y=[lanes.index(bar.lane) + 0.2 for bar in bars],
        width=0.36,
        text=[bar.text for bar in bars],
        textposition="inside",
        insidetextanchor="middle",
        textfont={"color": look.ink},
        marker=fill(look.colour, look.hatch),
        hovertemplate="%{text}<extra>%{fullData.name}</extra>",
    )


def _add_points(figure: go.Figure, lanes: list[str], points: list[Point]) -> None:
    if not points:
        return
    look = _POINTS[points[0].kind]
    figure.add_scatter(
        mode="markers+text",
        name=look.label,
        x=[point.at for point in points],
        y=[lanes.index(point.lane) for point in points],
        text=["<br>".join(textwrap.wrap(point.text, _LABEL_CHARACTERS)) for point in points],
        textposition="top center",
        cliponaxis=False,
        marker={
            "color": look.colour,
            "symbol": look.symbol,
            "size": look.size,
            "line": {"color": WHITE, "width": 1},
        },
        hovertemplate="%{text}<extra>%{fullData.name}</extra>",
    )


def _add_band(figure: go.Figure, band: Band) -> None:
    figure.add_vrect(
        x0=band.start,
        x1=band.end,
        fillcolor=PURPLE,
        opacity=0.22,
        layer="below",
        line={"width": 0},
        annotation={"text": f"<b>{band.text}</b>", "font": {"color": "#7A2F57"}},
        annotation_position="top",
    )


def _lay_out_lanes(
    figure: go.Figure, lanes: list[str], points: list[Point], bands: list[Band], unit: str
) -> None:
    lines = max((len(textwrap.wrap(point.text, _LABEL_CHARACTERS)) for point in points), default=0)
    # At least so much that a bar has room for its own words.
    above_px = max(14 + 19 * lines, 32)
    lane_px = above_px + 36
    # The first lane's labels, and the words of a band over them, need room inside the plot.
    top_px = above_px + 24 * bool(bands)
    figure.update_layout(
        barmode="overlay",
        height=round(190 + top_px + lane_px * (len(lanes) - 0.5)),
        uniformtext={"minsize": 13, "mode": "hide"},
        xaxis={"title": {"text": "milliseconds" if unit == "ms" else "step"}, "showgrid": True},
        yaxis={
            "tickvals": list(range(len(lanes))),
            "ticktext": lanes,
            "range": [len(lanes) - 0.5, -top_px / lane_px],
            "ticklabelstandoff": 8,
            "showgrid": True,
            "gridcolor": GREY,
        },
    )
    if unit == "step":
        # A line for each of many steps would hide what happened in them.
        many = max((point.at for point in points), default=0) > MOST_STEP_LINES
        figure.update_xaxes(dtick=5 if many else 1)
