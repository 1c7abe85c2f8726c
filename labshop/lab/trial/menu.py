"""Everything that a trial can break, by name and target."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from labshop.lab.trial.arena import BRANCHES, PRIMARY, Arena
from labshop.lab.trial.gates import GATE, master_killed
from labshop.lab.trial.ledgers import LEDGER, sqlite_file
from labshop.lab.trial.scene import Scene
from labshop.stack.faults.clocks import clock_offset
from labshop.stack.faults.disk import disk_full
from labshop.stack.faults.machine import cpu_busy, memory_taken
from labshop.stack.faults.nemesis import Fault
from labshop.stack.faults.network import Network
from labshop.stack.faults.processes import emptied, frozen, killed, power_lost
from labshop.stack.faults.sql import sql_away, sql_slow
from labshop.stack.nodes import ServerNode
from labshop.stack.probe import ask_redis

CLOCK_MS = 30_000
DELAY_MS = 60
DRIP_BYTES_PER_S = 2_000
SQL_DELAY_MS = 100
MEMORY_MB = 256

Menu = Mapping[tuple[str, str], Fault]


def menu(arena: Arena, scene: Scene) -> Menu:
    """Every fault that a whole shop has to survive; see also `clock_menu`."""
    path = sqlite_file(scene.ledger_url)
    ledger = server_menu(arena.network) if path is None else file_menu(path)
    return {**gate_menu(arena, scene), **ledger, **machine_menu()}


def gate_menu(arena: Arena, scene: Scene) -> Menu:
    """The faults of the gate, and of the ways to it where they can be hurt."""
    if scene.gate is not None:
        gate = scene.gate
        return {("master killed", GATE): lambda: master_killed(gate)}
    faults = dict(node_menu(arena.nodes[PRIMARY]))
    for branch in BRANCHES:
        faults.update(link_menu(arena.network, branch))
    return faults


def store_menu(primary: ServerNode, path: Path) -> Menu:
    """The faults of the primary, of the ledger's file, and of the machine."""
    return {**node_menu(primary), **file_menu(path), **machine_menu()}


def node_menu(primary: ServerNode) -> Menu:
    """The faults of the primary; for those of its clock see `clock_menu`."""
    return {
        ("killed", PRIMARY): lambda: killed(primary),
        ("frozen", PRIMARY): lambda: frozen(primary),
        ("power lost", PRIMARY): lambda: power_lost(primary),
        ("emptied", PRIMARY): lambda: emptied(primary),
        ("memory lost", PRIMARY): lambda: memory_lost(primary.port),
        ("disk full", PRIMARY): lambda: disk_full(primary),
    }


def file_menu(path: Path) -> Menu:
    """The faults of a ledger in a file: another program holds it."""
    return {
        ("away", LEDGER): lambda: sql_away(path),
        ("slow", LEDGER): lambda: sql_slow(path, SQL_DELAY_MS),
    }


def server_menu(network: Network) -> Menu:
    """The faults of a ledger on a server: the way there. A lost reply may be that of a commit."""
    return {
        ("away", LEDGER): lambda: network.refused(server=LEDGER),
        ("slow", LEDGER): lambda: network.delayed(SQL_DELAY_MS, server=LEDGER),
        ("replies dropped", LEDGER): lambda: network.replies_dropped(server=LEDGER),
    }


def machine_menu() -> Menu:
    """The faults of the machine that everything runs on."""
    return {
        ("CPU busy", "machine"): cpu_busy,
        ("memory taken", "machine"): lambda: memory_taken(MEMORY_MB),
    }


def link_menu(network: Network, branch: str) -> Menu:
    """The faults of one branch's way to the primary."""
    target = f"{branch} to {PRIMARY}"

    def hit(name: str) -> tuple[str, str]:
        return name, target

    return {
        hit("delayed"): lambda: network.delayed(DELAY_MS, client=branch, server=PRIMARY),
        hit("requests dropped"): lambda: network.requests_dropped(client=branch, server=PRIMARY),
        hit("replies dropped"): lambda: network.replies_dropped(client=branch, server=PRIMARY),
        hit("cut off"): lambda: network.partitioned(branch),
        hit("dripping"): lambda: network.dripping(DRIP_BYTES_PER_S, client=branch, server=PRIMARY),
        hit("refused"): lambda: network.refused(client=branch, server=PRIMARY),
        hit("reset"): lambda: reset(network, branch),
    }


def clock_menu(primary: ServerNode) -> Menu:
    """Clocks of the primary that jump.

    They are no part of a storm: a clock that jumped back *and* a memory that was lost make the
    fences begin too low, and the ledger refuses everybody until time has caught up.
    """
    return {
        ("clock ahead", PRIMARY): lambda: clock_offset(primary, CLOCK_MS),
        ("clock behind", PRIMARY): lambda: clock_offset(primary, -CLOCK_MS),
    }


def lock_menu(network: Network, servers: Mapping[str, ServerNode], chosen: Sequence[str]) -> Menu:
    """The faults of some of the five masters of a quorum, all of them at once."""
    nodes, target = [servers[name] for name in chosen], ", ".join(chosen)
    return {
        ("killed", target): lambda: _each(nodes, killed),
        ("frozen", target): lambda: _each(nodes, frozen),
        ("forgetful", target): lambda: _each(nodes, emptied),
        ("cut off", target): lambda: network.refused(server=chosen),
        ("far away", target): lambda: network.delayed(DELAY_MS, server=chosen),
    }


@contextmanager
def _each(
    nodes: Sequence[ServerNode], fault: Callable[[ServerNode], AbstractContextManager[object]]
) -> Iterator[None]:
    with ExitStack() as faults:
        for node in nodes:
            faults.enter_context(fault(node))
        yield


@contextmanager
def memory_lost(port: int) -> Iterator[None]:
    """A node forgets everything at this moment, and goes on."""
    ask_redis(port, "FLUSHALL")
    yield


@contextmanager
def reset(network: Network, branch: str) -> Iterator[None]:
    """All connections of a branch break at this moment; new ones work."""
    network.reset(client=branch, server=PRIMARY)
    yield
