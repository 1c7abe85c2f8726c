"""What the faults of a moment, taken together, mean for one link.

The problem: faults overlap; a link may be slow and partitioned, and either may end first. The
idea: a fault is a value, and what a link does follows from those that are there, so that
removing one cannot undo another.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random

DROPS_KEPT = 100
DROP_BYTES_KEPT = 1_024


class Way(Enum):
    """The two ways of a link."""

    REQUESTS = "from the client to the server"
    REPLIES = "from the server to the client"


@dataclass(frozen=True, eq=False)
class Fault:
    """What happens to the links that it affects, while it lasts.

    Args:
        affects: whether a link is hit, by the names of its client and of its server.
        delay_s: how much later what is sent arrives, on each way.
        jitter_s: up to so much later still, drawn from `dice`.
        bytes_per_s: the speed of each way of each connection.
        drops: the way on which everything is swallowed.
        holds: whether everything waits, on both ways.
        refuses: whether there are no connections.
    """

    affects: Callable[[str, str], bool]
    delay_s: float = 0.0
    jitter_s: float = 0.0
    dice: Random = field(default_factory=Random)
    bytes_per_s: float = math.inf
    drops: Way | None = None
    holds: bool = False
    refuses: bool = False


class Conditions:
    """All faults that affect one link: delays add up, and the slowest drip counts."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = faults
        self.drops = {fault.drops for fault in faults if fault.drops is not None}
        self.holds = any(fault.holds for fault in faults)
        self.refuses = any(fault.refuses for fault in faults)
        self.bytes_per_s = min((fault.bytes_per_s for fault in faults), default=math.inf)

    def delay_s(self) -> float:
        """How much later what is sent at this moment arrives."""
        return sum(fault.delay_s + fault.dice.uniform(0, fault.jitter_s) for fault in self._faults)


@dataclass
class Tally:
    """What one way of a link has seen, over all of its connections."""

    passed_bytes: int = 0
    dropped_bytes: int = 0
    dropped: deque[bytes] = field(default_factory=lambda: deque(maxlen=DROPS_KEPT))

    def drop(self, chunk: bytes) -> None:
        self.dropped_bytes += len(chunk)
        self.dropped.append(chunk[:DROP_BYTES_KEPT])
