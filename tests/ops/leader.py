"""A process that repairs while it leads.

``python -m tests.ops.leader GATE LEDGER LEASE_MS [unfenced]`` says ``leads FENCE`` when its term
begins. When it is about to add to the gate it says ``adds``, stands still until it is sent a line,
adds, and says what came of it.
"""

import asyncio
import sys
from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from labshop.clock import SystemClock
from labshop.locks import Node, SingleLock
from labshop.locks.wire import Part, Reply
from labshop.lua import load_script
from labshop.ops.repair import Repairer
from labshop.ops.repair_metrics import RepairMetrics
from labshop.ops.scheduler import Job, Scheduler
from labshop.storage.comparison import Comparison
from labshop.storage.database import Database
from labshop.storage.inventory import RedisInventory
from labshop.storage.ledger import SqlLedger
from labshop.storage.writer import GroupWriter

FENCE_CHECK = "if tonumber(ARGV[2]) < newest then return 'stale' end\n"
INTERVAL_MS = 50


async def main(gate_url: str, ledger_url: str, lease_ms: str, *protection: str) -> None:
    clock, node = SystemClock(), Node(gate_url, timeout_ms=2_000)
    database = Database(ledger_url, timeout_ms=5_000)
    ledger = SqlLedger(database, GroupWriter(database, timeout_ms=5_000))
    inventory = RedisInventory(node, ledger.snapshot, clock=clock)
    run = inventory.gate.run

    async def stands_still_first(script: str, keys: Sequence[str], args: Sequence[Part]) -> Reply:
        adds = script == "repair_stock" and len(args) > 5
        if adds:
            say("adds")
            # Not in a thread: nothing of this process goes on, the renewal of its lease included.
            sys.stdin.readline()
        is_unfenced = script == "repair_stock" and "unfenced" in protection
        sending = run_unfenced(node, keys, args) if is_unfenced else run(script, keys, args)
        sent = asyncio.ensure_future(sending)
        if adds:
            # Also where the term ends before the answer comes.
            sent.add_done_callback(lambda answered: say(answered.result()))
        return await asyncio.shield(sent)

    inventory.gate.run = stands_still_first  # type: ignore[method-assign]
    metrics = RepairMetrics(CollectorRegistry(), clock)
    comparison = Comparison(inventory.gate, database)
    repairer = Repairer(inventory, comparison, clock, metrics, lambda _event: None)

    def term(fence: int) -> list[Job]:
        say(f"leads {fence}")
        return [Job("repair", lambda: repairer.repair(fence), INTERVAL_MS)]

    lock = SingleLock(node, "scheduler", ttl_ms=int(lease_ms), clock=clock)
    await Scheduler([], term, lock, clock, lambda _leads: None).run()


async def run_unfenced(node: Node, keys: Sequence[str], args: Sequence[Part]) -> Reply:
    """Repair as anybody could, however long ago it led."""
    script = load_script("labshop.storage", "repair_stock")
    assert FENCE_CHECK in script.source
    source = script.source.replace(FENCE_CHECK, "")
    return await node.command("EVAL", source, len(keys), *keys, *args)


def say(word: str) -> None:
    print(word, flush=True)  # noqa: T201  # the pipe to whoever started this process


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
