"""One comparison of all that gate and ledger hold, by hand: what `labshop reconcile` does.

The problem: whoever is called at night wants to know now whether the numbers are right, and may not
do any harm by asking. The idea: stand for leader for a moment. Where nobody leads, this is the
leader, and repairs as it does. Where a shop is at work, its leader repairs, and this only looks.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from labshop.clock import SystemClock
from labshop.errors import SetupError
from labshop.locks import LockError, LockTimeout, Node, Renewal
from labshop.ops.repair import Mismatch, Repairer
from labshop.ops.repair_metrics import RepairMetrics
from labshop.ops.scheduler import leader_lock
from labshop.shop.errors import Refused
from labshop.storage.comparison import Comparison
from labshop.storage.database import Database
from labshop.storage.gate import tag_of
from labshop.storage.inventory import RedisInventory
from labshop.storage.ledger import SqlLedger
from labshop.storage.writer import GroupWriter

SALE_ID = 1
LEASE_MS = 3_000


async def reconcile_once(
    gate_url: str,
    ledger_url: str,
    *,
    node_timeout_ms: int,
    database_timeout_ms: int,
    say: Callable[[str], object],
) -> bool:
    """Compare every product and every user, repair if nobody else does, and say what was found.

    Returns:
        Whether gate and ledger agree, now that it is over.

    Raises:
        SetupError: gate or ledger cannot be reached.
    """
    clock = SystemClock()
    node = Node(gate_url, timeout_ms=node_timeout_ms, key=tag_of(SALE_ID))
    database = Database(ledger_url, timeout_ms=database_timeout_ms)
    ledger = SqlLedger(database, GroupWriter(database, timeout_ms=database_timeout_ms))
    inventory = RedisInventory(node, ledger.snapshot, clock=clock, sale_id=SALE_ID)
    comparison = Comparison(inventory.gate, database)
    metrics = RepairMetrics(CollectorRegistry(), clock)
    repairer = Repairer(inventory, comparison, clock, metrics, lambda _event: None)
    lock = leader_lock(node, inventory.gate.tag, ttl_ms=LEASE_MS, clock=clock)
    try:
        await inventory.gate.heat()
        try:
            async with lock.hold(wait_ms=0, renewal=Renewal(LEASE_MS)) as lease:
                found = await _look_at_all(repairer, comparison, lease.fence, say)
        except LockTimeout:
            found = await _look_at_all(repairer, comparison, None, say)
            if found:
                say("The shop's own leader is at work and will repair it.")
    except (Refused, LockError) as outage:
        raise SetupError(f"Gate and ledger cannot be compared: {outage}") from None
    finally:
        await node.close()
        database.close()
    is_sound = all(mismatch.is_repaired for mismatch in found)
    if is_sound:
        say("Gate and ledger agree.")
    return is_sound


async def _look_at_all(
    repairer: Repairer, comparison: Comparison, fence: int | None, say: Callable[[str], object]
) -> list[Mismatch]:
    found: list[Mismatch] = []
    while not comparison.rounds:
        report = await (repairer.inspect() if fence is None else repairer.repair(fence))
        found += report.mismatches
        for mismatch in report.mismatches:
            say(str(mismatch))
        if report.is_rebuilt:
            say("Nothing explained its numbers: the gate was built anew from the ledger.")
    return found
