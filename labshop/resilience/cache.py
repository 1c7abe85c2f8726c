"""A cache for a moment, behind which one loads for all.

The problem: a thousand visitors look at the same stock. Without a cache each costs a query; with
an ordinary one, all who come in the moment in which it expires do (a *stampede*). The idea: what
is asked for and not known is loaded once, and all who ask meanwhile wait for that one load.

- A load is a task of its own. Who asked first may go away, the others get their answer; when all
  are gone, it is cancelled.
- A load that fails is told to all who wait for it, and not kept: the next one loads anew.
- Who invalidates a key also disowns its load: what was read before the change is given to those
  who had asked before it, and to nobody after.
- An entry's age counts from the moment its load began, so none is served that is older than its
  time to live.
- The number of entries is bounded; the one that was asked for longest ago goes first.

It does not promise the truth of this moment, but one that is at most `ttl_ms` old: good enough
to show, and never to decide a sale by. Other processes' changes do not invalidate it.

Source: Go's `golang.org/x/sync/singleflight`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from labshop.clock import Clock, SystemClock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(eq=False)
class _Load(Generic[V]):
    """One load, and how many wait for it."""

    task: "asyncio.Task[V]"
    waiting: int = 0


@dataclass(frozen=True)
class _Entry(Generic[V]):
    value: V
    until_ms: float


@dataclass(eq=False)
class Cache(Generic[K, V]):
    """What `load` gave, kept for a moment.

    `ttl_ms` is how old a value may be that is served, `size` how many are kept.
    """

    load: Callable[[K], Awaitable[V]]
    ttl_ms: float
    size: int
    clock: Clock = field(default_factory=SystemClock)
    _entries: OrderedDict[K, _Entry[V]] = field(default_factory=OrderedDict, init=False)
    _loads: dict[K, _Load[V]] = field(default_factory=dict, init=False)

    async def get(self, key: K) -> V:
        """The value of a key, kept or loaded.

        Raises:
            Whatever the load raises, to all who wait for it.
        """
        entry = self._entries.get(key)
        if entry is not None and self.clock.now_ms() < entry.until_ms:
            self._entries.move_to_end(key)
            return entry.value
        load = self._loads.get(key)
        if load is None:
            # An empty context: the load is everybody's, so the first one's deadline is not its.
            task = asyncio.create_task(self._fill(key), context=Context())
            task.add_done_callback(_look_at_end)
            load = self._loads[key] = _Load(task)
        return await self._wait_for(key, load)

    def invalidate(self, key: K) -> None:
        """Forget a key: from here on, nobody is given what was read before."""
        self._entries.pop(key, None)
        self._loads.pop(key, None)

    def clear(self) -> None:
        """Forget all keys."""
        self._entries.clear()
        self._loads.clear()

    async def _wait_for(self, key: K, load: _Load[V]) -> V:
        load.waiting += 1
        try:
            await asyncio.wait((load.task,))
            return load.task.result()
        finally:
            load.waiting -= 1
            if not load.waiting and not load.task.done():
                load.task.cancel()
                self._disown(key, load.task)

    async def _fill(self, key: K) -> V:
        began_ms, task = self.clock.now_ms(), asyncio.current_task()
        try:
            value = await self.load(key)
            load = self._loads.get(key)
            if load is not None and load.task is task:
                self._keep(key, _Entry(value, began_ms + self.ttl_ms))
            return value
        finally:
            self._disown(key, task)

    def _keep(self, key: K, entry: _Entry[V]) -> None:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > self.size:
            self._entries.popitem(last=False)

    def _disown(self, key: K, task: "asyncio.Task[V] | asyncio.Task[object] | None") -> None:
        load = self._loads.get(key)
        if load is not None and load.task is task:
            del self._loads[key]


def _look_at_end(task: "asyncio.Task[V]") -> None:
    """Where nobody waits any more, nobody is told of a failure; that is no defect."""
    if not task.cancelled():
        task.exception()
