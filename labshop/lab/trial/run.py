"""Tries a strategy: real servers, a crowd, faults, and the judge's verdict on what happened.

The problem: a wrong strategy works nearly always. The idea: run it where it has to fail if it can:
in two branches at once, with a crowd that arrives together, under a scenario that forces the
interleaving or breaks a server, and hold everything that anybody was told against the properties
of `labshop.judge`.

A trial that ends VALID does not promise that the strategy is right; a seed more may show it.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from labshop.clock import Clock
from labshop.judge.checker import PROPERTIES, check
from labshop.judge.history import History, Sale
from labshop.judge.recorder import Recorder
from labshop.judge.verdict import Verdict
from labshop.lab.crowd import Buyer, press_buy
from labshop.lab.doors import StrategyDoor
from labshop.lab.trial.arena import Arena
from labshop.lab.trial.scenario import Scenario
from labshop.lab.trial.scene import Branch, Scene
from labshop.lab.trial.watch import Foot, SkewedClock, Watch
from labshop.locks import Lock, Node
from labshop.locks.base import LockEventHook
from labshop.shop.domain import Receipt
from labshop.shop.errors import PurchaseError
from labshop.stack.faults.nemesis import Nemesis
from labshop.stages.base import PurchaseStrategy, Toolbox

AUDIT_EVERY_S = 0.1

MakeStrategy = Callable[[Toolbox], PurchaseStrategy]
MakeLock = Callable[[Sequence[Node], str, Clock, LockEventHook], Lock]
"""Makes a lock under test, of the nodes, a name, a clock and a hook for its events."""


@dataclass(frozen=True)
class Trial:
    """One run: its history, the verdict on it, and why faults were skipped, if any were."""

    scenario: Scenario
    seed: int
    history: History
    verdict: Verdict
    took_s: float
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.scenario.name}, seed {self.seed}: {self.verdict}"


async def try_out(
    strategy: MakeStrategy,
    scenario: Scenario,
    *,
    arena: Arena,
    seed: int = 1,
    lock: MakeLock | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Trial:
    """Run a strategy through a scenario, and judge it.

    Args:
        strategy: its class, or whatever makes one of a `Toolbox`.
        scenario: who comes, and what goes wrong.
        arena: the servers.
        seed: draws the crowd and the faults.
        lock: makes the locks that the strategy gets; by default those of the shop.
        progress: told how many buyers have an answer, and of how many.
    """
    began_s = time.monotonic()
    recorder = Recorder(Sale(dict(scenario.stock), scenario.limit_per_user))
    async with arena.scene(
        dict(scenario.stock),
        limit_per_user=scenario.ledger_limit or scenario.limit_per_user,
        guarded=scenario.guarded,
        on_lock=recorder.lock_event,
    ) as scene:
        run = _Run(scene, scenario, recorder, strategy, lock)
        skipped = await run.play(arena, seed, progress)
    history = recorder.history()
    properties = [name for name in PROPERTIES if name not in scenario.spares]
    verdict = check(history, properties)
    return Trial(scenario, seed, history, verdict, time.monotonic() - began_s, skipped)


class _Run:
    def __init__(
        self,
        scene: Scene,
        scenario: Scenario,
        recorder: Recorder,
        strategy: MakeStrategy,
        lock: MakeLock | None,
    ) -> None:
        self._scene = scene
        self._scenario = scenario
        self._recorder = recorder
        self._strategy = strategy
        self._lock = lock
        self._foot = Foot(scenario.hold_ms, scenario.held)
        self._closing = AsyncExitStack()
        self._counters = {p: scene.counter(p) for p in scenario.stock}

    async def play(
        self, arena: Arena, seed: int, progress: Callable[[int, int], object] | None
    ) -> tuple[str, ...]:
        scenario, scene = self._scenario, self._scene
        node = scene.branches[0].node
        for product, key in self._counters.items():
            await node.command("SET", key, scenario.stock[product])
        if scenario.needs_lock_nodes:
            # A service that has run for a while has its connections already.
            for lock_node in (it for branch in scene.branches for it in branch.lock_nodes):
                await lock_node.ready()
        door = StrategyDoor([self._make(branch) for branch in scene.branches])

        def answered(count: int, of: int) -> None:
            if count == scenario.restart_after:
                door.strategies[:] = [self._make(branch) for branch in scene.branches]
            if progress is not None:
                progress(count, of)

        plan = scenario.plan(arena, scene, seed)
        async with asyncio.TaskGroup() as beside:
            auditor = beside.create_task(self._audit_again_and_again())
            with Nemesis(plan, watch=self._recorder.fault) as nemesis:
                crowd = scenario.crowd(await scene.users(scenario.users), seed)
                await self._visit(crowd, door, seed, answered)
                await asyncio.to_thread(nemesis.wait)
            if scenario.restock:
                await self._restock(door, seed)
            auditor.cancel()
        await self._close_the_books()
        await self._closing.aclose()
        return tuple(nemesis.skipped)

    def _make(self, branch: Branch) -> PurchaseStrategy:
        """A new strategy, as a start of the service makes it."""
        watch = Watch(branch.name, self._recorder, self._foot)
        tools = branch.tools
        if branch is self._scene.branches[-1] and self._scenario.skew_s:
            tools = replace(tools, clock=SkewedClock(tools.clock, self._scenario.skew_s))
        tools = replace(tools, ledger=watch.ledger(tools.ledger), publish=watch.publish)
        if self._lock is not None:
            nodes = branch.lock_nodes if self._scenario.needs_lock_nodes else (branch.node,)
            make, clock = self._lock, tools.clock
            hook = self._recorder.lock_event
            tools = replace(tools, lock=lambda *names: make(nodes, names[0], clock, hook))
        strategy = self._strategy(tools)
        if hasattr(strategy, "aclose"):
            self._closing.push_async_callback(strategy.aclose)
        return strategy

    async def _visit(
        self,
        crowd: Sequence[Buyer],
        door: StrategyDoor,
        seed: int,
        answered: Callable[[int, int], object],
    ) -> None:
        await press_buy(crowd, door, self._recorder, progress=answered)
        chance = random.Random(seed)  # noqa: S311  # drawn, not hidden
        bought = [buy for buy in self._recorder.history().of("buy") if buy.outcome == "ok"]
        for buy in bought:
            if chance.random() < self._scenario.change_mind:
                await self._cancel(buy.process, int(buy.args["user"]), str(buy.order_id))

    async def _cancel(self, name: str, user_id: int, order_id: str) -> None:
        shop = self._scene.branches[0].shop
        assert shop is not None
        with self._recorder.invoke(name, "cancel", {"order": order_id}) as call:
            receipt, sequence = await shop.ledger.cancel(
                UUID(order_id), user_id=user_id, actor=f"user:{user_id}"
            )
            await shop.inventory.put_back(receipt, sequence)
            call.ok()

    async def _restock(self, door: StrategyDoor, seed: int) -> None:
        units, scene = self._scenario.restock, self._scene
        asked = {"product": 1, "units": units}
        with self._recorder.invoke("admin", "restock", asked) as call:
            await scene.restock(1, units)
            await scene.branches[0].node.command("INCRBY", self._counters[1], units)
            call.ok()
        users = await scene.users(self._scenario.users)
        crowd = self._scenario.crowd(users, seed + 1)
        late = [replace(buyer, name=f"late {buyer.name}") for buyer in crowd]
        await press_buy(late, door, self._recorder)

    async def _audit_again_and_again(self) -> None:
        while True:
            with suppress(PurchaseError):
                await self._audit(settled=False)
            await asyncio.sleep(AUDIT_EVERY_S)

    async def _close_the_books(self) -> None:
        """Once all is healed and repaired: what ledger and gate say at the end."""
        with suppress(TimeoutError):
            await self._scene.settle()
        with suppress(PurchaseError):
            await self._audit(settled=True)
        node = self._scene.branches[0].node
        uses_gate = await self._scene.uses_gate()
        for product, key in self._counters.items():
            asked = {"product": product, "place": "gate" if uses_gate else "counter"}
            with self._recorder.invoke("auditor", "read", asked) as call, suppress(PurchaseError):
                if uses_gate:
                    call.ok(left=await self._scene.unsold(product))
                else:
                    call.ok(left=int(await node.command("GET", key) or 0))

    async def _audit(self, *, settled: bool) -> None:
        with self._recorder.invoke("auditor", "audit", {"settled": settled}) as call:
            audit = await self._scene.audit()
            orders = [audit_row(receipt) for receipt in audit.orders]
            left = {str(p): units for p, units in audit.left.items() if p in self._counters}
            call.ok(left=left, orders=orders)


def audit_row(receipt: Receipt) -> dict[str, Any]:
    """An order of the ledger, as an audit tells it to the judge."""
    return {
        "order": str(receipt.order_id),
        "user": receipt.user_id,
        "key": receipt.idempotency_key,
        "lines": _units(receipt),
        "status": receipt.status,
        "fence": receipt.fence,
        "sequence": receipt.sequence,
    }


def _units(receipt: Receipt) -> dict[str, int]:
    units: dict[str, int] = {}
    for line in receipt.lines:
        product = str(line.product_id)
        units[product] = units.get(product, 0) + line.quantity
    return units
