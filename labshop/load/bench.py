"""What things cost, as ratios within one run.

The problem: a shared machine is twice as fast at one moment as at the next, so absolute times
are noise. The idea: each figure is measured beside its yardstick, in turn, several times, and
reported as the median of the ratios with their spread. `lock_figures` and `redlock_figures` set
this package's locks beside other people's, `purchase_figures` sets a purchase beside the empty
route of the same server.

It says nothing about another machine, and nothing about a network. Locks a second and
milliseconds are told too; only their ratios may be compared between two runs.
"""

import asyncio
import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from labshop.lab.origin import commit, machine
from labshop.load.figure import Figure, table
from labshop.load.flatness_figures import flatness_figures
from labshop.load.lock_figures import single_node_figures
from labshop.load.overload_figures import overload_figures
from labshop.load.peers import ON_MANY_NODES, ON_ONE_NODE, LockLibrary
from labshop.load.production_figures import production_figures
from labshop.load.purchase_figures import purchase_figures
from labshop.load.redlock_figures import redlock_figures
from labshop.load.shard_figures import shard_figures
from labshop.load.stock_read_figures import stock_read_figures
from labshop.settings import read_settings
from labshop.stack.topology import TOPOLOGY, Topology

Part = Literal["locks", "purchases"]


@dataclass(frozen=True)
class Report:
    """What a run has brought; its text is the table."""

    figures: list[Figure]
    versions: dict[str, str]
    """Of the libraries that were measured."""
    absences: list[str]
    """A sentence for each peer that was not."""

    def __str__(self) -> str:
        return "\n".join((table(self.figures), *(self.absences and ("", *self.absences))))


def run_bench(output: Path, only: Part | None = None) -> Report:
    """Measure, and write it down with machine and commit.

    Args:
        output: a JSON file; its folder is made. What stood there is replaced.
        only: the part to measure; None is all.
    """
    figures: list[Figure] = []
    libraries: list[LockLibrary] = []
    absences: list[str] = []
    # The peers come last: importing pottery exchanges `json.dumps` in the whole process.
    if only != "locks":
        figures += asyncio.run(purchase_figures())
        figures += shard_figures()
        figures += asyncio.run(stock_read_figures())
        with tempfile.TemporaryDirectory(prefix="labshop-bench-") as folder:
            production = asyncio.run(production_figures(Path(folder)))
            production += asyncio.run(overload_figures(Path(folder)))
            production += asyncio.run(flatness_figures(Path(folder)))
        figures += production
        if not production:
            absences.append("v4 is not measured: that takes wrk, and two cores.")
    if only != "purchases":
        absent = {library: library.absence() for library in ON_ONE_NODE}
        libraries = [library for library, sentence in absent.items() if sentence is None]
        absences += [sentence for sentence in absent.values() if sentence is not None]
        figures = [*_lock_figures(libraries), *figures]
    report = Report(figures, {each.name: each.version for each in libraries}, absences)
    output.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "commit": commit(),
        "machine": machine(),
        "versions": report.versions,
        "absences": absences,
        "figures": [asdict(figure) for figure in figures],
    }
    output.write_text(json.dumps(content, indent=1) + "\n")
    return report


def _lock_figures(libraries: Iterable[LockLibrary]) -> list[Figure]:
    names = {library.name for library in libraries}
    specs = tuple(spec for spec in TOPOLOGY if spec.role == "lock")
    with (
        tempfile.TemporaryDirectory(prefix="labshop-bench-") as home,
        Topology(Path(home), read_settings().redis_server, specs) as topology,
    ):
        nodes = list(topology.nodes.values())
        return [
            *single_node_figures(nodes[0], libraries),
            *redlock_figures(nodes, [each for each in ON_MANY_NODES if each.name in names]),
        ]
