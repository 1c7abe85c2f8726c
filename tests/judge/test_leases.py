"""The smallest examples of leases that overlap, fences that go back, and probes in a crowd."""

from labshop.judge.history import BreakerRecord, LockRecord, Operation
from tests.judge.small import broken, buy, op, reason

ONE = {"1": 1}


def lease(
    who: str,
    since: float,
    until: float,
    fence: int = 0,
    *,
    end: float | None = None,
    asked: float = 0,
) -> tuple[LockRecord, ...]:
    """A lease that its holder believes in until a deadline, or released before it."""
    got = LockRecord(since, who, "acquired", "k", who, fence, until, asked, f"{who}0")
    gone = () if end is None else (LockRecord(end, who, "released", "k", who, fence, end),)
    return (got, *gone)


def test_leases_do_not_overlap() -> None:
    """Two holders at once are one too many; one that is told after its deadline holds nothing."""
    ann = lease("ann", 0, 10)
    assert broken(locks=(*ann, *lease("bob", 9, 15))) == {"exclusive-leases"}
    assert reason(of="exclusive-leases", locks=(*ann, *lease("bob", 9, 15))) == (
        "ann and bob both held k for 1.0 ms"
    )
    assert broken(locks=(*ann, *lease("bob", 10, 15))) == set()
    assert broken(locks=(*lease("ann", 0, 10, end=4), *lease("bob", 5, 15))) == set()
    assert broken(locks=(*ann, *lease("bob", 9, 8))) == set()


def test_a_release_without_its_moment_ends_a_lease() -> None:
    """Where `until_ms` is missing at the end, the event itself is the end; and not before."""
    got = lease("ann", 0, 10)[0]
    gone = LockRecord(5, "ann", "released", "k", "ann")
    assert broken(locks=(got, gone, *lease("bob", 6, 15))) == set()
    assert broken(locks=(got, *lease("bob", 4, 15), gone)) == {"exclusive-leases"}


def test_a_token_that_is_used_again_is_another_lease() -> None:
    """Two acquisitions under one token are judged one by one."""
    twice = (*lease("ann", 0, 10, end=2), *lease("ann", 4, 14, end=12))
    assert broken(locks=(*twice, *lease("bob", 2.5, 3.5))) == set()
    assert broken(locks=(*twice, *lease("bob", 6, 9))) == {"exclusive-leases"}


def test_a_fence_only_grows() -> None:
    """A later lease has a larger fence, unless nobody can say which was later."""
    ann = lease("ann", 0, 2, fence=5)
    assert broken(locks=(*ann, *lease("bob", 3, 9, fence=4))) == {"no-stale-fence"}
    assert reason(of="no-stale-fence", locks=(*ann, *lease("bob", 3, 9, fence=4))) == (
        "bob got fence 4 on k after ann had got 5"
    )
    assert broken(locks=(*ann, *lease("bob", 3, 9, fence=5))) == {"no-stale-fence"}
    assert broken(locks=(*ann, *lease("bob", 3, 9, fence=6))) == set()
    # Bob was told late, and after the end: his lease may have been the first of the two.
    assert broken(locks=(*ann, *lease("bob", 3, 1, fence=4, asked=0))) == set()
    assert broken(locks=(*ann, *lease("bob", 3, 1, fence=4, asked=0.5))) == {"no-stale-fence"}


def write(who: str, sequence: int, **told: int) -> Operation:
    return buy(who, (0, 9), ONE, order=who, sequence=sequence, **told)


def test_no_store_takes_an_old_fence() -> None:
    """A write with an older fence than the one before it should have been refused."""
    stale = write("ann", 1, fence=2), write("bob", 2, fence=1)
    assert broken(*stale, stock=5) == {"no-stale-fence"}
    assert reason(*stale, of="no-stale-fence", stock=5) == (
        "bob wrote to product 1 with fence 1 after ann had written with 2"
    )
    assert broken(write("ann", 2, fence=2), write("bob", 1, fence=1), stock=5) == set()
    assert broken(write("ann", 1, fence=2), write("bob", 2, fence=2), stock=5) == set()


def test_fences_of_different_counters_are_not_compared() -> None:
    """A write without a fence has that of its lease; leases on two keys have two counters."""
    writes = write("ann", 1), write("bob", 2)
    ann, bob = lease("ann", 0, 2, fence=5), lease("bob", 3, 5, fence=4, end=4)
    other = tuple(
        LockRecord(r.at_ms, r.process, r.event, "other", r.token, 4, r.until_ms, 0, "bob0")
        for r in bob
    )
    assert broken(*writes, stock=5, locks=(*ann, *bob)) == {"no-stale-fence"}
    assert broken(*writes, stock=5, locks=(*ann, *other)) == set()


def test_a_half_open_breaker_lets_one_call_through() -> None:
    """Two probes at once are one too many; one after the other, or when closed, they are not."""
    half = (
        BreakerRecord(0, "shop", "ledger", "half_open"),
        BreakerRecord(9, "ann", "ledger", "closed"),
    )
    first = op("ann", "probe", (1, 4), {"name": "ledger"})
    assert broken(first, op("bob", "probe", (3, 5), {"name": "ledger"}), breakers=half) == {
        "one-probe"
    }
    assert broken(first, op("bob", "probe", (4, 5), {"name": "ledger"}), breakers=half) == set()
    assert broken(first, op("bob", "probe", (3, 5), {"name": "gate"}), breakers=half) == set()
    assert broken(first, op("bob", "probe", (3, 5), {"name": "ledger"})) == set()
