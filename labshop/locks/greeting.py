"""How a connection begins: who we are, who the server is, and since when.

A server that has started anew may have forgotten what it granted. It says so by a `run_id` that is
new at each start, and by its uptime; but its uptime is by its own clock, which may jump. Whoever
has known its earlier run knows better: the new one cannot have begun before the old one was last
heard.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from labshop.locks.wire import Part, Wire


@dataclass(frozen=True)
class ServerRun:
    """One run of a server: from its start to its end.

    `began_s` is when it started, by this process' monotonic clock, and never too early as far as
    this process can tell: a server that had another `run_id` when it was last heard has started
    after that, whatever its own clock says.
    """

    run_id: str
    client_id: int
    began_s: float
    is_master: bool


async def greet(
    wire: Wire,
    greeting: Sequence[Sequence[Part]],
    channel: str,
    earlier: ServerRun | None,
    heard_at_s: float,
) -> ServerRun:
    """Say hello, and learn who answers.

    Args:
        wire: a new connection.
        greeting: the commands to begin with; the first is HELLO.
        channel: to listen to.
        earlier: the run that was known before.
        heard_at_s: when that was last heard, by the loop's clock.

    Raises:
        NodeError: it refused, or did not answer.
    """
    replies = [wire.send(command) for command in greeting]
    info = wire.send(("INFO", "server"))
    subscribed = wire.send(("SUBSCRIBE", channel))
    hello, *_ = await asyncio.gather(*replies)
    server = dict(line.split(":", 1) for line in (await info).splitlines() if ":" in line)
    await subscribed
    run_id = server["run_id"]
    # The difference of two times that were both cut to whole seconds: up to one too many.
    surely_up_s = max(0.0, float(server["uptime_in_seconds"]) - 1)
    began_s = asyncio.get_running_loop().time() - surely_up_s
    if earlier is not None:
        began_s = earlier.began_s if earlier.run_id == run_id else max(began_s, heard_at_s)
    return ServerRun(run_id, int(hello["id"]), began_s, hello.get("role") == "master")


def greeting_of(username: str | None, password: str | None, path: str) -> list[tuple[Part, ...]]:
    """The commands that a new connection starts with."""
    hello: tuple[Part, ...] = ("HELLO", 3)
    if password:
        hello = (*hello, "AUTH", unquote(username or "default"), unquote(password))
    database = path.strip("/")
    return [hello, ("SELECT", database)] if database else [hello]
