"""What runs, told in lines for a terminal."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from labshop.stack.home import NodeState, State
from labshop.stack.probe import answering_pid
from labshop.stack.shop_api import readiness


def describe(state: State) -> str:
    """Tell of each node and of the API where it is, and whether it answers, a line each."""
    return "\n".join(_lines(state))


def _lines(state: State) -> Iterator[str]:
    rows = [("NAME", "ROLE", "STATE", "PID", "URL")]
    rows += [(node.name, node.role, *_health(node), node.url) for node in state.nodes]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
    if state.api_url is None:
        yield "The API has not started yet."
        return
    is_ready, why = readiness(state.api_url)
    yield f"API   {state.api_url}  {why if is_ready else f'not ready: {why}'}"
    yield f"Docs  {state.api_url}/docs"


def _health(node: NodeState) -> tuple[str, str]:
    """Return a node's state and its process id as it says itself: it may have been restarted."""
    try:
        pid = answering_pid(urlsplit(node.url).port or 0)
    except TimeoutError:
        return "no answer", str(node.pid)
    return ("alive", str(pid)) if pid else ("dead", str(node.pid))
