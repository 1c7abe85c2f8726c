"""What an administrator can see of a lock, and do about it.

To take a lock away from a holder that is alive breaks mutual exclusion, for that holder goes on.
What protects the stock then is the fencing token: the next holder has a larger one, and the store
refuses what the first still writes. Each time is told to the hook, with who did it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from labshop.clock import Clock, SystemClock
from labshop.locks.base import LockEvent, LockEventHook
from labshop.locks.connection import Node
from labshop.locks.keys import fence_key, lock_key, queue_keys
from labshop.lua import load_script


@dataclass(frozen=True)
class LockState:
    """A lock as one node sees it at this moment.

    `token` is the holder's, empty if it is free; `remaining_ms` counts down to its end, -1 for a
    key without one; `waiting` counts other processes in the queue.
    """

    key: str
    token: str
    fence: int
    remaining_ms: int
    waiting: int


async def look_at(node: Node, key: str) -> LockState:
    """See who holds a lock, and who waits for it.

    Raises:
        NodeError: the node could not be asked.
    """
    token = await node.command("GET", lock_key(key))
    remaining_ms = await node.command("PTTL", lock_key(key))
    fence = await node.command("GET", fence_key(key))
    waiting = await node.command("LLEN", queue_keys(key)[0])
    return LockState(key, _token(token or ""), int(fence or 0), max(remaining_ms, -1), waiting)


async def force_release(
    nodes: Sequence[Node],
    key: str,
    *,
    actor: str,
    on_event: LockEventHook,
    clock: Clock | None = None,
) -> tuple[str, ...]:
    """Free a lock whoever holds it; whoever waits first gets it.

    Args:
        nodes: the node of the lock, or all nodes of a quorum.
        key: what is locked.
        actor: who does this, for the audit.
        on_event: told of it once for each holder.
        clock: by which it is told.

    Returns:
        The tokens of the holders; none if it was free.

    Raises:
        NodeError: a node could not be asked; those before it have freed the lock.
    """
    script = load_script("labshop.locks", "force_release")
    tokens: list[str] = []
    for node in nodes:
        token = _token(await node.run(script, (lock_key(key), *queue_keys(key))))
        if token and token not in tokens:
            tokens.append(token)
            at_ms = (clock or SystemClock()).now_ms()
            on_event(LockEvent("forced", key, token, at_ms, until_ms=at_ms, actor=actor))
    return tuple(tokens)


def _token(word: str) -> str:
    """The holder's token: a vote of a quorum also counts the tries."""
    return word.partition(".")[0]
