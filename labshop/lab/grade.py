"""Checks of an exercise: what holds, what does not and why, and never the answer.

The problem: a wrong lock works nearly always, so running it proves nothing. The idea: the
learner's lock talks to a real node through a `Tap`, which can end its process after any
command, or stop it before any command until its lease is over. Every such point is tried, so
that a classic wrong answer cannot pass by luck.

The grader knows the client's boundary only: what a lock does within one command is Redis'.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from labshop.lab.lanes import Band, Bar, Point
from labshop.locks import Node

MAX_COMMANDS = 20
"""A lock that needs more commands than this for one call is stopped."""


class ProcessEndedError(Exception):
    """The client's process was ended at this point."""


class Lockish(Protocol):
    """What the exercise asks for."""

    async def acquire(self, node: Any, key: str, token: str, ttl_ms: int) -> bool: ...
    async def release(self, node: Any, key: str, token: str) -> bool: ...


class Broken(Exception):
    """A property does not hold; carries the reason and the events that show it."""

    def __init__(self, reason: str, story: tuple[Bar | Point | Band, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.story = story


@dataclass
class Tap:
    """A node as one client sees it, whose boundary the grader controls.

    `crash_after` ends the client after its n-th command was carried out; `pause_before` runs
    `meanwhile` ahead of its n-th command. Commands are counted from 1 and noted in `trace`.
    """

    node: Node
    crash_after: int | None = None
    pause_before: int | None = None
    meanwhile: Callable[[], Awaitable[None]] | None = None
    trace: list[str] = field(default_factory=list)

    async def command(self, *parts: str | int, **options: object) -> Any:
        """Send one command, as `Node.command` does."""
        if options:
            raise Broken(
                f"{', '.join(options)} was given by name; a command is sent word by word, as in "
                'redis-cli: node.command("SET", "shelf", "full", "XX")'
            )
        number = len(self.trace) + 1
        if number > MAX_COMMANDS:
            raise Broken(f"more than {MAX_COMMANDS} commands for one call: do not wait, return")
        if number == self.pause_before and self.meanwhile is not None:
            await self.meanwhile()
        self.trace.append(_short(parts))
        reply = await self.node.command(*parts)
        if number == self.crash_after:
            raise ProcessEndedError
        return reply


@dataclass(frozen=True)
class Finding:
    """One property: whether it holds, why not, and the events that show it."""

    name: str
    points: int
    outcome: Literal["PASS", "FAIL", "TODO"]
    reason: str = ""
    story: tuple[Bar | Point | Band, ...] = ()

    def __str__(self) -> str:
        points = self.points if self.outcome == "PASS" else 0
        text = f"{self.outcome}  {points}/{self.points}  {self.name}"
        return f"{text}: {self.reason}" if self.reason else text


@dataclass(frozen=True)
class Grade:
    """All findings of one exercise."""

    exercise: str
    findings: tuple[Finding, ...]

    @property
    def points(self) -> int:
        return sum(f.points for f in self.findings if f.outcome == "PASS")

    @property
    def out_of(self) -> int:
        return sum(f.points for f in self.findings)

    @property
    def finished(self) -> bool:
        """Whether every property holds."""
        return self.points == self.out_of

    @property
    def first_failure(self) -> Finding | None:
        """The first property that does not hold, if any was tried."""
        return next((f for f in self.findings if f.outcome == "FAIL"), None)

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings]
        return "\n".join([*lines, f"{self.points} of {self.out_of} points"])


def _short(parts: tuple[str | int, ...]) -> str:
    """A command as it is shown in a trace: its name and options, without script bodies."""
    name = str(parts[0]).upper()
    if name in ("EVAL", "EVALSHA"):
        return f"{name} …"
    options = [str(part) for part in parts[2:] if str(part).upper() in ("NX", "XX", "PX", "EX")]
    return " ".join([name, *options])


async def grade(
    exercise: str,
    properties: Mapping[str, tuple[int, Callable[[], Awaitable[None]]]],
    *,
    within_s: float,
) -> Grade:
    """Try whether each property holds.

    Args:
        exercise: its name in the report.
        properties: by their names: the points, and what raises `Broken` where it does not hold.
        within_s: what takes longer, in seconds, counts as not done.
    """
    findings = []
    for name, (points, holds) in properties.items():
        try:
            async with asyncio.timeout(within_s):
                await holds()
            findings.append(Finding(name, points, "PASS"))
        except NotImplementedError:
            findings.append(Finding(name, points, "TODO"))
        except Broken as broken:
            findings.append(Finding(name, points, "FAIL", broken.reason, broken.story))
        except TimeoutError:
            findings.append(
                Finding(name, points, "FAIL", f"it was not done within {within_s:.0f} s")
            )
        except Exception as error:  # noqa: BLE001  # whatever a learner's code raises is a finding
            findings.append(Finding(name, points, "FAIL", f"{type(error).__name__}: {error}"))
    return Grade(exercise, tuple(findings))
