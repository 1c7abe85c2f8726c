"""A campaign: sales one after the other, until so many faults were made or the time is over.

What a seed repeats is the plan: who comes, what strikes, when and for how long. The interleaving on
the servers is real, and is another one each time.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from labshop.judge.lines import write_history
from labshop.lab.chaos.books import read_books
from labshop.lab.chaos.deck import Deck
from labshop.lab.chaos.premises import Premises
from labshop.lab.chaos.report import Report, Summary
from labshop.lab.chaos.sale import Played, play_sale
from labshop.lab.origin import commit, machine
from labshop.settings import read_settings
from labshop.stages import STAGES

FAULTS_PER_SALE = 6
FIGURES = Path("build/chaos.json")
FOLDER = Path("build/chaos")
CLOCKED = ("v1", "v2")
"""Stages whose fences count the primary's clock."""

Say = Callable[[str], object]


def run_campaign(
    *,
    faults: int,
    minutes: float,
    seed: int,
    stage: str,
    say: Say,
    folder: Path = FOLDER,
    output: Path | None = None,
) -> Report:
    """Run a campaign.

    Args:
        faults: how many have to be made.
        minutes: no sale begins after this time.
        seed: of the first sale; each further one has the next.
        stage: such as ``v4``, or ``module:Class`` of a strategy of one's own.
        say: told a line for each sale.
        folder: for the histories and pictures of sales that failed.
        output: a JSON file for all figures.
    """
    began_s = time.monotonic()
    strategy = None if stage in STAGES else stage
    sales: list[Summary] = []
    with (
        tempfile.TemporaryDirectory(prefix="labshop-chaos-", ignore_cleanup_errors=True) as home,
        Premises(Path(home), read_settings().redis_server, strategy) as premises,
    ):
        deck = Deck(premises, clocks=stage not in CLOCKED)
        route = stage if strategy is None else "own"
        made = 0
        while made < faults and time.monotonic() - began_s < minutes * 60:
            number = seed + len(sales)
            playing = play_sale(premises, deck, seed=number, faults=FAULTS_PER_SALE, stage=route)
            played = asyncio.run(playing)
            sales.append(Summary.of(played))
            made += len(played.spells)
            say(str(sales[-1]))
            if sales[-1].failed:
                premises.repair()
                _keep(played, folder, say)
        receipts = frozenset[str]().union(*(sale.receipts for sale in sales))
        booked = {row["order"] for row in read_books(premises.ledger_file).orders}
    report = Report(
        stage=stage,
        asked=faults,
        sales=tuple(sales),
        lost=receipts - booked,
        took_s=time.monotonic() - began_s,
        repeat=f"labshop chaos --faults {FAULTS_PER_SALE} --stage {stage}",
    )
    if output is not None:
        _write(report, output)
    return report


def _keep(played: Played, folder: Path, say: Say) -> None:
    """The history of a sale that failed, and the picture of the smallest part that shows why."""
    folder.mkdir(parents=True, exist_ok=True)
    history = folder / f"seed-{played.seed}.jsonl"
    history.write_text("\n".join(write_history(played.history)) + "\n")
    say(f"  {played.verdict}")
    say(f"  its history: {history} (labshop judge {history})")
    if played.verdict.violations:
        from labshop.lab.verdict_chart import draw  # noqa: PLC0415  # drawing takes a second to load

        picture = folder / f"seed-{played.seed}.html"
        draw(played.verdict.violations[0]).write_html(picture, include_plotlyjs=True)
        say(f"  drawn in {picture}")


def _write(report: Report, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    content = {"commit": commit(), "machine": machine(), **report.as_dict()}
    output.write_text(json.dumps(content, indent=1) + "\n")
