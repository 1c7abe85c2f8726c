"""One question to all nodes at once, decided as soon as it can be.

The problem: to wait for every answer is to wait for the slowest node, and a hung one never
answers. The idea: count as the answers come; a majority of yes decides, and so does the moment in
which no majority is possible any more. Nobody waits for the rest.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from labshop.locks.connection import Node
from labshop.locks.errors import NodeDown, NodeError
from labshop.locks.wire import Reply


@dataclass(eq=False)
class Ballot:
    """The answers of several nodes.

    `ask` sends the question to a node; `is_yes` reads its answer. A node without a connection is
    connected first, unless it `asks_at_once`.
    """

    nodes: Sequence[Node]
    ask: Callable[[Node], "asyncio.Future[Reply]"]
    is_yes: Callable[[Reply], bool]
    asks_at_once: bool = False
    asked: list[Node] = field(default_factory=list)
    """The nodes that were really sent the question."""
    yes: int = 0
    no: list[Reply] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Why each node that did not answer did not, by its name."""

    def __post_init__(self) -> None:
        self.quorum = len(self.nodes) // 2 + 1
        self.decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_over = False
        self._replies: list[asyncio.Future[Reply]] = []
        for node in self.nodes:
            if node.is_connected or self.asks_at_once:
                self._send(node)
            else:
                node.when_connected(partial(self._go_on, node))

    def end(self) -> None:
        """Ask nobody else any more: neither a node that is reached too late, nor one again.

        A node that lost the script says so, and is then sent its source, unless nobody waits for
        the answer any more: that would come behind what undoes the question.
        """
        self._is_over = True
        for reply in self._replies:
            reply.cancel()

    def _go_on(self, node: Node, down: NodeDown | None) -> None:
        if self._is_over:
            return
        if down is None:
            self._send(node)
        else:
            self._fail(node, down)

    def _send(self, node: Node) -> None:
        try:
            reply = self.ask(node)
        except NodeError as refusal:
            self._fail(node, refusal)
            return
        self.asked.append(node)
        self._replies.append(reply)
        reply.add_done_callback(partial(self._count, node))

    def _count(self, node: Node, told: "asyncio.Future[Reply]") -> None:
        if told.cancelled():
            return
        error = told.exception()
        if isinstance(error, NodeError):
            self._fail(node, error)
        elif self.is_yes(told.result()):
            self.yes += 1
        else:
            self.no.append(told.result())
        self._decide()

    def _fail(self, node: Node, error: NodeError) -> None:
        self.failed[node.name] = error.reason
        self._decide()

    def _decide(self) -> None:
        possible = len(self.nodes) - len(self.no) - len(self.failed)
        if not self.decided.done() and (self.yes >= self.quorum or possible < self.quorum):
            self.decided.set_result(None)
