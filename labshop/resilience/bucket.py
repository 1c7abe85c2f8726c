"""A token bucket for each key: so many in a burst, so many in the long run.

The problem: one impatient user with a script sends as much as a thousand buyers. The idea: each
user has a bucket of tokens that fills at a steady rate; a request takes one, and who finds none is
told when there will be one.

A bucket is kept as one number, the moment at which it will be full again: it fills by itself as
time goes by, so nothing has to be added to it (the *generic cell rate algorithm*).

The number of buckets is bounded. When there are too many, the one that was asked longest ago is
forgotten; most likely it is full by then, which is the same as none. It does not promise anything
to a shop with more busy users than buckets, nor across processes.

Source: ITU-T I.371 (GCRA); RFC 2697 describes the bucket.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable

from labshop.clock import Clock, SystemClock


class TokenBuckets:
    """A bucket for each key.

    Args:
        per_s: tokens that a bucket gains in a second.
        burst: tokens that it holds.
        size: how many buckets are kept.
    """

    def __init__(
        self, *, per_s: float, burst: int, size: int = 10_000, clock: Clock | None = None
    ) -> None:
        if per_s <= 0 or burst < 1 or size < 1:
            raise ValueError("a bucket gains and holds something, and there is at least one")
        self._token_ms = 1_000 / per_s
        self._depth_ms = burst * self._token_ms
        self._size = size
        self._clock = clock or SystemClock()
        # The bucket that was asked last is the last one.
        self._full_at_ms: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at_ms)

    def take(self, key: Hashable) -> int:
        """Take a token from a key's bucket; returns 0, or in how many milliseconds there is one."""
        now_ms = self._clock.now_ms()
        buckets = self._full_at_ms
        full_at_ms = max(now_ms, buckets.pop(key, now_ms))
        short_ms = full_at_ms + self._token_ms - now_ms - self._depth_ms
        buckets[key] = full_at_ms if short_ms > _ROUNDING_MS else full_at_ms + self._token_ms
        if len(buckets) > self._size:
            buckets.popitem(last=False)
        return 0 if short_ms <= _ROUNDING_MS else max(1, math.ceil(short_ms))


_ROUNDING_MS = 1e-3
"""A sum of thirds is a little more than the whole."""
