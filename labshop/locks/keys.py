"""The keys of a lock in Redis.

All keys of one lock share a hash tag, so a Redis Cluster keeps them on one node. Several locks
are kept together there if their names begin with a common tag, such as ``{sale}:1``.
"""


def lock_key(name: str) -> str:
    """Holds its owner's token, with a time to live."""
    return f"lock:{{{name}}}"


def fence_key(name: str) -> str:
    """The newest fencing token of a lock."""
    return f"lock:{{{name}}}:fence"


def queue_keys(name: str) -> tuple[str, str]:
    """The tokens of waiters in their order; and how long each lives, and how to wake it."""
    return f"lock:{{{name}}}:queue", f"lock:{{{name}}}:waiters"
