"""Who waits for whom: noted from what locks tell, and drawn as a graph.

The problem: in a deadlock nothing happens, so no log shows it. The idea (R. C. Holt, "Some deadlock
properties of computer systems", 1972): two kinds of nodes, buyers and products, and two kinds of
arrows, "waits for" and "is held by". Where each lock has one holder, a deadlock is a way that leads
back to where it began.

The picture does not promise to be complete: it shows the locks that were told to report.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import plotly.graph_objects as go

from labshop.lab.renderer import BLUE, GREEN, INK, VERMILLION, WHITE, new_figure
from labshop.locks import LockEvent
from labshop.locks.base import LockEventHook

_NODE_PX = 62
_NODE_RADIUS = 0.22


class Arrow(NamedTuple):
    """One arrow of the graph."""

    start: str
    end: str
    kind: str


@dataclass(frozen=True)
class WaitGraph:
    """A moment: the holder of each product, and what each buyer waits for."""

    holders: Mapping[str, str] = field(default_factory=dict)
    waits: Mapping[str, str] = field(default_factory=dict)

    def arrows(self) -> list[Arrow]:
        """All arrows, those of buyers first."""
        waits = [Arrow(buyer, product, "waits for") for buyer, product in self.waits.items()]
        held = [Arrow(product, buyer, "is held by") for product, buyer in self.holders.items()]
        return [*waits, *held]

    def cycle(self) -> list[Arrow]:
        """The arrows that lead from somebody back to themselves; none without a deadlock."""
        for buyer in sorted(self.waits):
            way = self.way_from(buyer)
            if way and way[-1].end == buyer:
                return way
        return []

    def way_from(self, buyer: str) -> list[Arrow]:
        """Follow the arrows from a buyer, until they end or repeat."""
        way: list[Arrow] = []
        seen: set[str] = set()
        while buyer in self.waits and buyer not in seen:
            seen.add(buyer)
            product = self.waits[buyer]
            way.append(Arrow(buyer, product, "waits for"))
            if product not in self.holders:
                break
            buyer = self.holders[product]
            way.append(Arrow(product, buyer, "is held by"))
        return way

    def nodes(self) -> list[str]:
        """All nodes, in the order in which the arrows are walked."""
        walked = [name for buyer in self.waits for it in self.way_from(buyer) for name in it[:2]]
        rest = [name for it in self.arrows() for name in it[:2]]
        return list(dict.fromkeys([*walked, *rest]))


@dataclass
class WhoWaits:
    """Listens to locks; `fullest` is the moment at which most buyers waited."""

    fullest: WaitGraph = field(default_factory=WaitGraph)
    _holders: dict[str, str] = field(default_factory=dict)
    _waits: dict[str, str] = field(default_factory=dict)

    def hook(self, buyer: str) -> LockEventHook:
        """What a buyer's locks have to tell."""

        def told(event: LockEvent) -> None:
            if event.kind == "waiting":
                self._waits[buyer] = event.key
            elif event.kind == "timed_out":
                self._waits.pop(buyer, None)
            elif event.kind == "acquired":
                self._waits.pop(buyer, None)
                self._holders[event.key] = buyer
            elif event.kind in ("released", "lost", "abandoned"):
                self._holders.pop(event.key, None)
            if len(self._waits) > len(self.fullest.waits):
                # In an order of its own: who happened to ask first must not turn the picture.
                waits = dict(sorted(self._waits.items()))
                self.fullest = WaitGraph(dict(sorted(self._holders.items())), waits)

        return told


def draw_wait_graph(graph: WaitGraph, *, title: str, caption: str) -> go.Figure:
    """Draw a graph on a ring, in the order of its arrows; a cycle is thick and vermillion.

    Args:
        graph: what to draw.
        title: one line above the chart.
        caption: what must be seen, in words.

    Returns:
        The figure, carrying its caption.
    """
    names = graph.nodes()
    place = {name: _on_ring(number, len(names)) for number, name in enumerate(names)}
    cycle = set(graph.cycle())
    reach = _radius(len(names)) + 0.45
    side_px = round(_NODE_PX / _NODE_RADIUS * reach)
    figure = new_figure(title, caption, min_width_px=side_px)
    for kind in ("waits for", "is held by"):
        for in_cycle in (True, False):
            chosen = [it for it in graph.arrows() if it.kind == kind and (it in cycle) == in_cycle]
            if chosen:
                _add_arrows(figure, kind, chosen, place, in_cycle=in_cycle)
    buyers = [name for name in names if name in graph.waits or name in graph.holders.values()]
    products = [name for name in names if name not in buyers]
    _add_nodes(figure, "buyer", buyers, place, BLUE, "circle")
    _add_nodes(figure, "product", products, place, GREEN, "square")
    axis = {"visible": False, "range": [-reach, reach]}
    figure.update_layout(
        height=side_px + 130,
        xaxis=axis,
        yaxis={**axis, "scaleanchor": "x"},
        legend={"itemsizing": "trace"},
    )
    return figure


def _radius(count: int) -> float:
    """So large that neighbours on the ring have room for an arrow."""
    return max(0.75, 0.45 / math.sin(math.pi / max(count, 2)))


def _on_ring(number: int, count: int) -> tuple[float, float]:
    """From the top, clockwise."""
    angle, radius = math.pi / 2 - 2 * math.pi * number / count, _radius(count)
    return round(radius * math.cos(angle), 4), round(radius * math.sin(angle), 4)


def _add_arrows(
    figure: go.Figure,
    kind: str,
    arrows: list[Arrow],
    place: Mapping[str, tuple[float, float]],
    *,
    in_cycle: bool,
) -> None:
    colour, width = (VERMILLION, 4) if in_cycle else (INK, 2)
    xs: list[float | None] = []
    ys: list[float | None] = []
    for arrow in arrows:
        (x0, y0), (x1, y1) = place[arrow.start], place[arrow.end]
        length = math.hypot(x1 - x0, y1 - y0)
        dx, dy = (x1 - x0) / length, (y1 - y0) / length
        gap = _NODE_RADIUS + 0.06
        start = (x0 + gap * dx, y0 + gap * dy)
        tip = (x1 - gap * dx, y1 - gap * dy)
        neck = (tip[0] - 0.06 * dx, tip[1] - 0.06 * dy)
        xs += [round(start[0], 4), round(neck[0], 4), None]
        ys += [round(start[1], 4), round(neck[1], 4), None]
        figure.add_annotation(
            x=round(tip[0], 4),
            y=round(tip[1], 4),
            ax=round(neck[0], 4),
            ay=round(neck[1], 4),
            axref="x",
            ayref="y",
            text="",
            arrowhead=2,
            arrowsize=1 if in_cycle else 1.5,
            arrowwidth=width,
            arrowcolor=colour,
        )
    figure.add_scatter(
        x=xs,
        y=ys,
        mode="lines",
        name=f"{kind}, round in a circle" if in_cycle else kind,
        line={"color": colour, "width": width, "dash": "dot" if kind == "waits for" else "solid"},
        hoverinfo="skip",
    )


def _add_nodes(
    figure: go.Figure,
    kind: str,
    names: list[str],
    place: Mapping[str, tuple[float, float]],
    colour: str,
    symbol: str,
) -> None:
    if not names:
        return
    figure.add_scatter(
        x=[place[name][0] for name in names],
        y=[place[name][1] for name in names],
        mode="markers+text",
        name=kind,
        text=["<br>".join(name.split(" ")) for name in names],
        textfont={"color": WHITE, "size": 13},
        marker={"symbol": symbol, "size": _NODE_PX, "color": colour},
        hovertemplate="%{text}<extra>" + kind + "</extra>",
    )
