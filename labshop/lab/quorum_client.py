"""Five nodes as one client sees them, with the grader at the client's boundary.

The problem: a quorum has more weak points than one node: each node may be dead, or hang and carry
everything out when it wakes; the client may end or stand still around each of its commands. The
idea: the learner's code talks to real nodes through this client, which lets one of these things
happen at one given point, so that all of them can be tried one after the other.

The grader knows the client's boundary only: what a node does within one command is Redis'.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from labshop.lab.grade import Broken, ProcessEndedError
from labshop.locks import Node, NodeDown, NodeSilent

MOST_COMMANDS = 60
"""For one call, on all nodes together; who needs more is stopped."""
TOGETHER_S = 0.3
"""Whoever asks all nodes at once has asked the last one so long after the first, by far."""

Fate = Literal["answers", "dead", "hangs"]
"""A dead node carries nothing out. One that hangs carries everything out, when it wakes."""


@dataclass
class Client:
    """One process of a learner's, and what befalls it in one call.

    Commands are counted from 1, over all nodes. `crash_after` ends the process when that many
    were carried out. Before number `pause_before` it stands still for `pause_ms`, with everything
    in it, and then `meanwhile` happens at the node that is about to be asked. Each reply arrives
    `late_ms` after it was given. With `together` the first replies are held until all nodes have
    been asked.
    """

    nodes: Sequence[Node]
    fates: Sequence[Fate] = ("answers",) * 5
    crash_after: int | None = None
    pause_before: int | None = None
    pause_ms: int = 0
    meanwhile: Callable[[Node], Awaitable[object]] | None = None
    late_ms: int = 0
    together: bool = False
    trace: list[tuple[str, str]] = field(default_factory=list)
    """The nodes that were asked, by place, and what they were asked."""
    began_s: float | None = None
    replies_s: list[float] = field(default_factory=list)
    """When each reply was handed to the learner's code."""
    complaint: Broken | None = None
    """What the learner's code must not swallow."""
    _carried_out: int = 0
    _has_ended: bool = False

    def __post_init__(self) -> None:
        self.taps = [
            NodeTap(self, place, node, fate)
            for place, (node, fate) in enumerate(zip(self.nodes, self.fates, strict=True), start=1)
        ]
        self._all_asked = asyncio.Event()

    async def wake(self) -> None:
        """Let the nodes that hang go on: they carry out what they were sent, in order."""
        for tap in self.taps:
            while tap.owed:
                await tap.node.command(*tap.owed.pop(0))

    async def before(self, tap: "NodeTap", parts: tuple[str | int, ...]) -> None:
        """All that happens before a command leaves."""
        if self._has_ended:
            raise ProcessEndedError
        if len(self.trace) >= MOST_COMMANDS:
            raise self._complain(f"more than {MOST_COMMANDS} commands for one call")
        if self.began_s is None:
            self.began_s = time.monotonic()
        self.trace.append((f"lock-{tap.place}", str(parts[0]).upper()))
        if len(self.trace) == self.pause_before:
            time.sleep(self.pause_ms / 1_000)  # noqa: ASYNC251  # the whole process stands still
            if self.meanwhile is not None:
                await self.meanwhile(tap.node)
        if self.together:
            await self._until_all_are_asked()

    async def after(self) -> None:
        """All that happens between a node's answer and the learner's code."""
        self._carried_out += 1
        self._has_ended = self._has_ended or self._carried_out == self.crash_after
        if self._has_ended:
            raise ProcessEndedError
        await asyncio.sleep(self.late_ms / 1_000)
        self.replies_s.append(time.monotonic())

    def refuse_options(self, options: dict[str, object]) -> None:
        """A command is sent word by word."""
        if options:
            raise self._complain(
                f"{', '.join(options)} was given by name; a command is sent word by word, as in "
                'redis-cli: node.command("SET", "shelf", "full", "XX")'
            )

    def complain_now(self) -> None:
        """Raise what the learner's code may have swallowed.

        Raises:
            Broken: there was something.
        """
        if self.complaint is not None:
            raise self.complaint

    async def _until_all_are_asked(self) -> None:
        if len({place for place, _ in self.trace}) == len(self.nodes):
            self._all_asked.set()
        try:
            async with asyncio.timeout(TOGETHER_S):
                await self._all_asked.wait()
        except TimeoutError:
            asked = len({place for place, _ in self.trace})
            self._all_asked.set()  # once is enough
            self._complain(
                f"with {asked} of {len(self.nodes)} nodes asked, acquire waited for an answer: a "
                "node that hangs would make all that follow it wait"
            )

    def _complain(self, reason: str) -> Broken:
        self.complaint = self.complaint or Broken(reason)
        return self.complaint


@dataclass
class NodeTap:
    """One node as the learner's code is given it."""

    client: Client
    place: int
    node: Node
    fate: Fate
    owed: list[tuple[str | int, ...]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As it is called in a lesson."""
        return f"lock-{self.place}"

    async def command(self, *parts: str | int, **options: object) -> Any:
        """Send one command, as `Node.command` does.

        Raises:
            NodeDown: the node is dead. NodeSilent: it hangs.
        """
        self.client.refuse_options(options)
        await self.client.before(self, parts)
        if self.fate == "dead":
            raise NodeDown(self.name, "the connection was refused")
        if self.fate == "hangs":
            self.owed.append(parts)
            raise NodeSilent(self.name, "no answer in time")
        reply = await self.node.command(*parts)
        await self.client.after()
        return reply


@contextmanager
def wall_clock_jumps(by_s: float, client: Client) -> Iterator[None]:
    """This process' wall clock is set when a client has sent its first command."""
    true, true_ns = time.time, time.time_ns

    def wrong() -> float:
        return true() + by_s * bool(client.trace)

    def wrong_ns() -> int:
        return true_ns() + int(by_s * 1_000_000_000) * bool(client.trace)

    time.time, time.time_ns = wrong, wrong_ns
    try:
        yield
    finally:
        time.time, time.time_ns = true, true_ns
