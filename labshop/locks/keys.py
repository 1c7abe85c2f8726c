"""The keys of a lock in Redis.

All keys of one lock share a hash tag, so a Redis Cluster keeps them on one node. Several locks
are kept together there if their names begin with a common tag, such as ``{sale}:1``.
"""


def check_terms(name: str, ttl_ms: int) -> None:
    """Refuse what no lock can be made of.

    Raises:
        ValueError: the name is empty or no text that Redis can take, or the time is not at least
            one whole millisecond.
    """
    if not name or name.startswith("}"):
        raise ValueError(f"a lock needs a name that does not begin with a brace, not {name!r}")
    name.encode()
    if type(ttl_ms) is not int or ttl_ms < 1:
        raise ValueError(f"a time to live is whole milliseconds, at least 1, not {ttl_ms!r}")


def lock_key(name: str) -> str:
    """Holds its owner's token, with a time to live."""
    return f"lock:{{{name}}}"


def fence_key(name: str) -> str:
    """The newest fencing token of a lock."""
    return f"lock:{{{name}}}:fence"


def queue_keys(name: str) -> tuple[str, str]:
    """The tokens of waiters in their order; and how long each lives, and how to wake it."""
    return f"lock:{{{name}}}:queue", f"lock:{{{name}}}:waiters"
