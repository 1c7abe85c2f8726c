"""Locks in Redis: a library of its own, which knows Redis and not the shop."""

from labshop.locks.admin import LockState, force_release, look_at
from labshop.locks.base import Lease, Lock, LockEvent
from labshop.locks.cluster import Cluster
from labshop.locks.connection import Node
from labshop.locks.deadlock import WaitForGraph
from labshop.locks.errors import (
    DeadlockError,
    LockError,
    LockExpired,
    LockLost,
    LockTimeout,
    NodeDown,
    NodeError,
    NodeRefused,
    NodeSilent,
    NoQuorum,
)
from labshop.locks.lease import HeldLease
from labshop.locks.multi import MultiLock
from labshop.locks.redlock import Redlock
from labshop.locks.reentrant import Reentrant
from labshop.locks.renewal import Renewal
from labshop.locks.single import SingleLock

__all__ = [
    "Cluster",
    "DeadlockError",
    "HeldLease",
    "Lease",
    "Lock",
    "LockError",
    "LockEvent",
    "LockExpired",
    "LockLost",
    "LockState",
    "LockTimeout",
    "MultiLock",
    "NoQuorum",
    "Node",
    "NodeDown",
    "NodeError",
    "NodeRefused",
    "NodeSilent",
    "Redlock",
    "Reentrant",
    "Renewal",
    "SingleLock",
    "WaitForGraph",
    "force_release",
    "look_at",
]
