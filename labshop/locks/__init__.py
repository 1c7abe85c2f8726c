"""Locks in Redis: a library of its own, which knows Redis and not the shop."""

from labshop.locks.base import Lease, Lock, LockError, LockEvent, LockLost, LockTimeout
from labshop.locks.connection import Node, NodeDown, NodeError, NodeRefused, NodeSilent
from labshop.locks.single import SingleLease, SingleLock

__all__ = [
    "Lease",
    "Lock",
    "LockError",
    "LockEvent",
    "LockLost",
    "LockTimeout",
    "Node",
    "NodeDown",
    "NodeError",
    "NodeRefused",
    "NodeSilent",
    "SingleLease",
    "SingleLock",
]
