"""What visitors are shown of the stock, put together from the settings."""

from labshop.clock import Clock
from labshop.errors import SetupError
from labshop.locks import Node
from labshop.ops.metrics import Metrics
from labshop.settings import Settings
from labshop.storage.catalog import Catalog
from labshop.storage.inventory import RedisInventory
from labshop.storage.replica import Replica
from labshop.storage.shards import ShardedInventory
from labshop.storage.stock_reads import StockReads


def build_stock(
    settings: Settings,
    inventory: RedisInventory | ShardedInventory,
    catalog: Catalog,
    metrics: Metrics,
    clock: Clock,
) -> StockReads:
    """A cache, and a replica where there is one; nothing is connected yet.

    Raises:
        SetupError: the replica's URL is not usable.
    """
    replica = None
    # Where the stock is split, a replica has a part of it only.
    if settings.replica_url and isinstance(inventory, RedisInventory):
        try:
            node = Node(settings.replica_url, timeout_ms=settings.node_timeout_ms)
        except ValueError as error:
            raise SetupError(f"LABSHOP_REPLICA_URL is not usable: {error}.") from None
        gate = inventory.gate
        replica = Replica(
            node, gate.node, gate.key, clock=clock, max_age_ms=settings.replica_age_ms
        )
        metrics.watch_replica(replica.age_ms)
    return StockReads(
        inventory, catalog, clock=clock, ttl_ms=settings.stock_ttl_ms, replica=replica
    )
