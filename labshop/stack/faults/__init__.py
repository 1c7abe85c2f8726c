"""Faults that a cell inflicts and heals: each is a `with` body, and ends with it."""

from labshop.stack.faults.clocks import NodeClock, clock_drifting, clock_offset
from labshop.stack.faults.disk import disk_full
from labshop.stack.faults.errors import FaultUnavailable
from labshop.stack.faults.machine import cpu_busy, memory_taken
from labshop.stack.faults.network import Network, Traffic, distant
from labshop.stack.faults.processes import emptied, frozen, killed, power_lost
from labshop.stack.faults.shim import shimmed
from labshop.stack.faults.sql import sql_away, sql_slow

__all__ = [
    "FaultUnavailable",
    "Network",
    "NodeClock",
    "Traffic",
    "clock_drifting",
    "clock_offset",
    "cpu_busy",
    "disk_full",
    "distant",
    "emptied",
    "frozen",
    "killed",
    "memory_taken",
    "power_lost",
    "shimmed",
    "sql_away",
    "sql_slow",
]
