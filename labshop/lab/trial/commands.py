"""The commands that try strategies: a learner's own, the zoo's, and the stages again and again."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from labshop.errors import SetupError
from labshop.judge.checker import check
from labshop.judge.lines import read_history, write_history
from labshop.judge.verdict import Verdict
from labshop.lab.trial.arena import Arena
from labshop.lab.trial.run import MakeStrategy, Trial, try_out
from labshop.lab.trial.scenario import Scenario
from labshop.lab.trial.scenarios import FIRST_LOOK, SCENARIOS, SHOP
from labshop.lab.trial.specimens import Specimen, specimens
from labshop.settings import read_settings
from labshop.stages import STAGES
from labshop.stages.base import load_strategy

Say = Callable[[str], object]


def try_strategy(
    name: str, scenarios: Sequence[str], seed: int, history: Path | None, say: Say
) -> Verdict:
    """Let a strategy sell, in one scenario after the other, until one breaks it.

    Args:
        name: ``module:Class``, or a stage such as ``v1``.
        scenarios: their names; none stands for a first look.
        seed: draws the crowd and the faults.
        history: file that the last history is written to.
        say: told a line for each scenario.
    """
    strategy = load_strategy(STAGES.get(name, name))
    chosen = [_scenario(it) for it in scenarios or FIRST_LOOK]
    trial = asyncio.run(_until_it_breaks(strategy, chosen, seed, say))
    if history is not None:
        history.write_text("\n".join(write_history(trial.history)) + "\n")
    return trial.verdict


def zoo(names: Sequence[str], seeds: range, say: Say) -> int:
    """Let each bug of the zoo sell once for each seed; returns how many got away.

    Raises:
        SetupError: the zoo has none of these names.
    """
    chosen = [it for it in specimens() if not names or it.name in names]
    if not chosen:
        known = ", ".join(it.name for it in specimens())
        raise SetupError(f"The zoo has none of these; there are: {known}.")
    return asyncio.run(_catch(chosen, seeds, say))


def soak(name: str, scenarios: Sequence[str], seeds: range, say: Say) -> Verdict:
    """Let a strategy sell once for each seed, the scenarios in turn; ends at the first that breaks.

    Args:
        name: ``module:Class``, or a stage such as ``v1``.
        scenarios: their names; none stands for all that a whole shop has to survive.
        seeds: each draws the crowd and the faults of a run.
        say: told a line for each run.
    """
    strategy = load_strategy(STAGES.get(name, name))
    chosen = [_scenario(it) for it in scenarios or SHOP]
    return asyncio.run(_again_and_again(strategy, chosen, seeds, say))


def judge(files: Sequence[Path]) -> Verdict:
    """Judge a history that was recorded into one or several files.

    Raises:
        SetupError: a file cannot be read, or is no history.
    """
    lines: list[str] = []
    for file in files:
        try:
            lines += file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SetupError(f"{file} cannot be read: {error}.") from None
    return check(read_history(lines))


def _scenario(name: str) -> Scenario:
    if name not in SCENARIOS:
        raise SetupError(f"There is no scenario {name!r}; there are: {', '.join(SCENARIOS)}.")
    return SCENARIOS[name]


def _arena() -> Arena:
    # What the shop logs about its faults is no news to whoever makes them.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    return Arena(read_settings().redis_server)


async def _until_it_breaks(
    strategy: MakeStrategy, scenarios: Sequence[Scenario], seed: int, say: Say
) -> Trial:
    with _arena() as arena:
        for scenario in scenarios:
            trial = await try_out(strategy, scenario, arena=arena, seed=seed)
            say(f"{scenario.name}: {trial.verdict.outcome} ({scenario.story})")
            for sentence in trial.skipped:
                say(f"  skipped: {sentence}")
            if trial.verdict.outcome != "VALID":
                break
    return trial


async def _catch(chosen: Sequence[Specimen], seeds: range, say: Say) -> int:
    """How many got away at least once."""
    missed = 0
    with _arena() as arena:
        for specimen in chosen:
            trials = [await specimen.try_out(arena, seed) for seed in seeds]
            caught = sum(specimen.caught_by in trial.verdict.broken for trial in trials)
            slowest_s = max(trial.took_s for trial in trials)
            word = "caught" if caught == len(trials) else "MISSED"
            missed += caught != len(trials)
            say(
                f"{word} {caught}/{len(trials)}  {slowest_s:4.1f} s  {specimen.name:26}"
                f"{specimen.caught_by:18}{specimen.bug}"
            )
    say(f"{len(chosen) - missed} of {len(chosen)} bugs are caught.")
    return missed


async def _again_and_again(
    strategy: MakeStrategy, scenarios: Sequence[Scenario], seeds: range, say: Say
) -> Verdict:
    with _arena() as arena:
        for number, seed in enumerate(seeds, start=1):
            scenario = scenarios[seed % len(scenarios)]
            trial = await try_out(strategy, scenario, arena=arena, seed=seed)
            say(f"{number}/{len(seeds)}  {trial}")
            if trial.verdict.outcome != "VALID":
                return trial.verdict
    return Verdict("VALID", f"{len(seeds)} runs, none of them accused")
