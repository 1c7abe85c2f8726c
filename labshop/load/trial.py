"""A fair trial for each library: empty nodes, and a bound.

The problem: other people's code may hang, raise anything or leave locks behind, and the run must
go on and say so. The idea: nobody finds what another has left, and the body of one ``async with``
is the only place where failures are caught; its end is a `FailedError` with a word for the table.
An error of this package's own lock is a defect and is raised as it is.

It does not promise that a library can be used again after it has failed.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from labshop.load.peers import LockLibrary
from labshop.stack.nodes import ServerNode
from labshop.stack.probe import ask_redis


class FailedError(Exception):
    """A library did not do what was measured: it ``stalls``, or ``raises SomeError``."""


@asynccontextmanager
async def trial(library: LockLibrary, bound_s: float) -> AsyncIterator[None]:
    """Let the body use a library for so many seconds at most.

    Raises:
        FailedError: the time was over, or a peer raised.
    """
    try:
        async with asyncio.timeout(bound_s) as bound:
            yield
    except FailedError:
        raise
    except Exception as error:  # a peer under test may raise anything
        if bound.expired():
            raise FailedError("stalls") from None
        if library.is_ours:
            raise
        raise FailedError(f"raises {_first_of(error).__name__}") from error


def empty(nodes: Iterable[ServerNode]) -> None:
    """Have the nodes forget all keys."""
    for node in nodes:
        if ask_redis(node.port, "FLUSHALL") != "+OK":
            raise RuntimeError(f"{node.spec.name} could not be emptied")


def _first_of(error: BaseException) -> type[BaseException]:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error)
