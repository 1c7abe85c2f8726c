"""Locks on a real Redis Cluster of three masters: found, followed when they move, or refused."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from labshop.locks import Cluster, LockEvent, LockTimeout, Node, NodeDown, NodeRefused
from labshop.locks.base import ignore_event
from labshop.locks.cluster import ClusterLock
from labshop.locks.slots import SLOTS, slot_of
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from labshop.stack.ports import LOOPBACK, free_port
from labshop.stack.probe import ask_redis
from tests.conftest import eventually
from tests.locks.conftest import WOKEN_S

MASTERS = 3


class Master(ServerNode):
    """A server that is a master of a cluster."""

    bus_port = 0

    def _command(self, port: int) -> list[str]:
        self.bus_port = self.bus_port or free_port()
        options = {"cluster-enabled": "yes", "cluster-port": str(self.bus_port)}
        return super()._command(port) + [
            word for name, value in options.items() for word in (f"--{name}", value)
        ]


@pytest.fixture(scope="module")
def masters(leash: Leash, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[Master]]:
    """Three masters, each with a third of the slots, that know each other."""
    folder = tmp_path_factory.mktemp("cluster")
    masters = [
        Master(NodeSpec(f"m{n}", "lock"), find_server(None), folder / f"m{n}", leash)
        for n in range(MASTERS)
    ]
    bounds = [SLOTS * n // MASTERS for n in range(MASTERS + 1)]
    for number, master in enumerate(masters):
        master.start()
        first, last = bounds[number], bounds[number + 1] - 1
        assert ask_redis(master.port, f"CLUSTER ADDSLOTSRANGE {first} {last}") == "+OK"
    for master in masters[1:]:
        meeting = f"CLUSTER MEET {LOOPBACK} {master.port} {master.bus_port}"
        assert ask_redis(masters[0].port, meeting) == "+OK"
    yield masters
    for master in masters:
        master.kill()


@pytest.fixture
async def views(masters: Sequence[Master]) -> AsyncIterator[list[Node]]:
    """The masters, empty and agreed, each asked for itself."""
    views = [Node(master.url, timeout_ms=5_000) for master in masters]
    for view in views:
        await eventually(lambda view=view: is_agreed(view))  # type: ignore[misc]  # its default
        await view.command("FLUSHALL")
    yield views
    for view in views:
        await view.close()


@pytest.fixture
async def cluster(masters: Sequence[Master], views: list[Node]) -> AsyncIterator[Cluster]:
    """The cluster, of which one node is named."""
    cluster = Cluster([masters[0].url], timeout_ms=5_000)
    yield cluster
    await cluster.close()


def lock_on(cluster: Cluster, key: str, events: list[LockEvent] | None = None) -> ClusterLock:
    hook = ignore_event if events is None else events.append
    return cluster.lock(key, ttl_ms=10_000, on_event=hook)


def test_slots_are_those_of_the_specification() -> None:
    """The CRC16 of the hash tag, as Redis itself computes it."""
    assert slot_of("123456789") == 0x31C3 % SLOTS
    assert slot_of("lock:{door}:fence") == slot_of("lock:{door}") == slot_of("door")
    assert slot_of("{}door") != slot_of("door")


async def test_slots_are_those_of_the_server(views: list[Node]) -> None:
    """For any key, the server names the same slot."""
    for key in ("door", "lock:{a b}", "{}x", "x{y}z{w}", "{{a}}", "ключ", "", "a}b{c"):
        assert await views[0].command("CLUSTER", "KEYSLOT", key) == slot_of(key)


async def test_locks_live_on_the_masters_of_their_slots(
    cluster: Cluster, views: list[Node]
) -> None:
    """Thirty locks from one seed are held at once, on all masters, and are free afterwards."""
    leases = [await lock_on(cluster, f"door {n}").acquire(wait_ms=0) for n in range(30)]
    sizes = [await view.command("DBSIZE") for view in views]
    with pytest.raises(LockTimeout):
        await lock_on(cluster, "door 7").acquire(wait_ms=0)

    assert min(sizes) > 0
    assert sum(sizes) == 2 * 30  # each with its fence
    for lease in leases:
        await lease.extend(20_000)
        await lease.release()
    assert sum([len(await held(view)) for view in views]) == 0


@pytest.mark.usefixtures("only_listens")
async def test_processes_wait_for_each_other(cluster: Cluster, masters: Sequence[Master]) -> None:
    """A waiter of another process, which knows another seed, is woken by the release."""
    there = Cluster([masters[2].url], timeout_ms=5_000)
    lease = await lock_on(cluster, "door").acquire(wait_ms=0)
    events: list[LockEvent] = []
    waiting = asyncio.create_task(lock_on(there, "door", events).acquire(wait_ms=5_000))
    node = await cluster.node_of("lock:{door}")
    await eventually(lambda: is_queued(node, "lock:{door}:queue"))

    await lease.release()

    async with asyncio.timeout(WOKEN_S):
        next_lease = await waiting
    assert next_lease.fence > lease.fence
    assert [event.kind for event in events] == ["waiting", "acquired"]
    await next_lease.release()
    await there.close()


@pytest.mark.parametrize("refreshes", [True, False], ids=["refreshes", "control"])
async def test_a_lock_is_found_where_its_slot_has_moved(
    cluster: Cluster, views: list[Node], monkeypatch: pytest.MonkeyPatch, *, refreshes: bool
) -> None:
    """After a migration the old master answers MOVED, the map is read anew, and the fence goes on.

    Control: without reading the map anew, the lock is not to be had.
    """
    async with lock_on(cluster, "door").hold(wait_ms=0) as first:
        pass
    source = await view_of(views, cluster, "lock:{door}")
    target = next(view for view in views if view is not source)
    if not refreshes:
        monkeypatch.setattr(cluster, "refresh", nothing)

    async with migrated(views, source, target, "door"):
        if not refreshes:
            with pytest.raises(NodeRefused, match="MOVED"):
                await lock_on(cluster, "door").acquire(wait_ms=0)
            return
        async with lock_on(cluster, "door").hold(wait_ms=0) as second:
            assert await target.command("GET", "lock:{door}") == second.token
        assert second.fence > first.fence


async def test_a_waiter_follows_a_slot_that_moves(
    cluster: Cluster, views: list[Node], masters: Sequence[Master]
) -> None:
    """The slot of a held lock moves while another process waits: it gets the lock at its new place,
    and the holder, who does not know of that, abandons it to its time to live.
    """
    there = Cluster([masters[1].url], timeout_ms=5_000)
    events: list[LockEvent] = []
    holding = lock_on(cluster, "door", events).hold(wait_ms=0)
    await holding.__aenter__()
    source = await view_of(views, cluster, "lock:{door}")
    target = next(view for view in views if view is not source)
    waiting = asyncio.create_task(lock_on(there, "door").acquire(wait_ms=20_000))
    await eventually(lambda: is_queued(source, "lock:{door}:queue"))

    async with migrated(views, source, target, "door"):
        await holding.__aexit__(None, None, None)
        assert events[-1].kind == "abandoned"
        await target.command("PEXPIRE", "lock:{door}", 50)
        lease = await waiting
        assert await target.command("GET", "lock:{door}") == lease.token
        await lease.release()
    await there.close()


async def test_nobody_knows_of_a_cluster_that_is_not_there() -> None:
    """Seeds that do not answer are a definite failure, with the reasons of each."""
    ports = [free_port() for _ in range(2)]
    cluster = Cluster([f"redis://{LOOPBACK}:{port}" for port in ports], timeout_ms=200)

    with pytest.raises(NodeDown) as failure:
        await lock_on(cluster, "door").acquire(wait_ms=0)

    assert failure.value.definite
    assert all(str(port) in failure.value.reason for port in ports)


async def test_a_second_seed_answers_for_a_dead_one(
    views: list[Node], masters: Sequence[Master]
) -> None:
    """Of two seeds, one that lives is enough."""
    dead = f"redis://{LOOPBACK}:{free_port()}"
    cluster = Cluster([dead, masters[1].url], timeout_ms=5_000)

    await (await lock_on(cluster, "door").acquire(wait_ms=0)).release()

    await cluster.close()


class migrated:  # noqa: N801  # used like a function
    """A slot with its keys on another master, for the length of a body."""

    def __init__(self, views: Sequence[Node], source: Node, target: Node, tag: str) -> None:
        self._views = views
        self._ends = (source, target)
        self._slot = slot_of(tag)

    async def __aenter__(self) -> None:
        await self._move(*self._ends)

    async def __aexit__(self, *_: object) -> None:
        await self._move(*reversed(self._ends))

    async def _move(self, source: Node, target: Node) -> None:
        ids = {view: await view.command("CLUSTER", "MYID") for view in self._views}
        slot = ("CLUSTER", "SETSLOT", self._slot)
        await target.command(*slot, "IMPORTING", ids[source])
        await source.command(*slot, "MIGRATING", ids[target])
        keys = await source.command("CLUSTER", "GETKEYSINSLOT", self._slot, 100)
        if keys:
            await source.command("MIGRATE", LOOPBACK, target.port, "", 0, 5_000, "KEYS", *keys)
        for view in (target, source, *self._views):
            await view.command(*slot, "NODE", ids[target])
        for view in self._views:
            await eventually(lambda view=view: self._knows(view, target, ids[target]))  # type: ignore[misc]  # its default

    async def _knows(self, view: Node, owner: Node, owner_id: str) -> bool:
        """Whether a node has heard of the owner's newest epoch, so that no older word counts."""
        own = await owner.command("CLUSTER", "INFO")
        epoch = own.partition("cluster_my_epoch:")[2].split()[0]
        lines = (await view.command("CLUSTER", "NODES")).splitlines()
        told = next(line.split() for line in lines if line.startswith(owner_id))
        ranges = await view.command("CLUSTER", "SLOTS")
        ports = {master[1] for first, last, master, *_ in ranges if first <= self._slot <= last}
        return told[6] == epoch and ports == {owner.port}


async def view_of(views: Sequence[Node], cluster: Cluster, key: str) -> Node:
    """The master of a key, as the test asks it."""
    name = (await cluster.node_of(key)).name
    return next(view for view in views if view.name == name)


async def is_agreed(view: Node) -> bool:
    info = await view.command("CLUSTER", "INFO")
    return "cluster_state:ok" in info and f"cluster_known_nodes:{MASTERS}" in info


async def held(view: Node) -> list[str]:
    return [key for key in await view.command("KEYS", "lock:*") if not key.endswith(":fence")]


async def is_queued(node: Node, key: str) -> bool:
    return bool(await node.command("LLEN", key) == 1)


async def nothing() -> None:
    pass
