"""The tree of errors: each is definite or not, and carries what its handler needs."""

import pytest

from labshop import locks
from labshop.locks import (
    DeadlockError,
    LockError,
    LockExpired,
    LockLost,
    LockTimeout,
    Node,
    NodeDown,
    NodeError,
    NodeRefused,
    NodeSilent,
    NoQuorum,
)
from tests.locks.conftest import Five, make_lock

ALL: list[LockError] = [
    LockTimeout("door", 50),
    NoQuorum("door", 3, {"b:2": "dead", "a:1": "hung"}),
    LockExpired("door", 100, 150),
    LockLost("door", "token"),
    DeadlockError("me", [("me", "a"), ("you", "b")]),
    NodeDown("a:1", "refused"),
    NodeRefused("a:1", "ERR wrong"),
    NodeSilent("a:1", "no reply"),
]


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_only_a_silent_node_is_indefinite(error: LockError) -> None:
    """Of all failures, only that of a node which did not answer leaves open what happened."""
    assert error.definite is not isinstance(error, NodeSilent)


def test_the_tree_is_complete() -> None:
    """Every error that the package exports stands in the list above, or is a branch of it."""
    exported = {
        it
        for name in locks.__all__
        if isinstance(it := getattr(locks, name), type) and issubclass(it, Exception)
    }

    assert exported == {type(error) for error in ALL} | {LockError, NodeError}
    assert {type(it).__mro__[1] for it in ALL} == {LockError, NodeError}


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ALL[0], "door was not free within 50 ms"),
        (ALL[1], "door needs 3 nodes, and too many cannot vote: a:1: hung; b:2: dead"),
        (ALL[2], "door was granted after 150 ms, for 100 ms"),
        (ALL[3], "the lease on door has ended"),
        (ALL[4], "me gives way in a deadlock: me waits for a, you waits for b"),
        (ALL[5], "Redis at a:1: refused"),
    ],
)
def test_an_error_says_what_happened(error: LockError, sentence: str) -> None:
    """The sentence names the lock or the node, and what was the matter."""
    assert str(error) == sentence


def test_a_token_is_in_no_sentence() -> None:
    """The word that only the holder knows is data for the program, and is not printed."""
    assert "token" not in str(LockLost("door", "token"))
    assert LockLost("door", "token").token == "token"


@pytest.mark.parametrize(
    ("key", "ttl_ms"),
    [("", 1), ("}", 1), ("\ud800", 1), ("door", 0), ("door", -1), ("door", 1.5), ("door", True)],
)
@pytest.mark.parametrize("kind", ["single", "redlock"])
def test_what_no_lock_can_be_made_of_is_refused(kind: str, key: str, ttl_ms: int) -> None:
    """A name that is none, or a time that is not whole milliseconds, is an error at once."""
    nodes = [Node(f"redis://127.0.0.1:{port}", timeout_ms=100) for port in range(1, 6)]
    with pytest.raises(ValueError, match=r"lock|live|surrogates"):
        make_lock(kind, nodes, key=key, ttl_ms=ttl_ms)


async def test_nobody_waits_for_nan_milliseconds(kind: str, five: Five) -> None:
    """A wait that is no number is refused, and asks nobody."""
    with pytest.raises(ValueError, match="NaN"):
        await make_lock(kind, five.process()).acquire(wait_ms=float("nan"))

    assert await five.is_empty()
