"""The judge sees: every bug of the zoo is caught, by the property that its file names."""

import inspect
from collections.abc import Iterator

import pytest

from labshop.judge.checker import PROPERTIES, check
from labshop.lab.trial import Arena
from labshop.lab.trial.scenarios import SCENARIOS
from labshop.lab.trial.specimens import Specimen, specimens
from labshop.lab.verdict_chart import draw

ALL = specimens()
SLOWEST_S = 10.0
LONGEST_FILE = 70


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    """The servers of one worker."""
    with Arena() as arena:
        yield arena


@pytest.mark.parametrize("specimen", ALL, ids=lambda specimen: specimen.name)
async def test_every_bug_is_caught(specimen: Specimen, arena: Arena) -> None:
    """It is caught by the named property; the witness is small, fails by itself, and is drawn."""
    trial = await specimen.try_out(arena, seed=7)

    assert specimen.caught_by in trial.verdict.broken, str(trial)
    violation = next(it for it in trial.verdict.violations if it.property == specimen.caught_by)
    assert len(violation.witness) <= 10
    assert specimen.caught_by in check(violation.witness).broken
    assert draw(violation).data


def test_the_zoo_is_complete() -> None:
    """The bugs that the course speaks of are there, each with a property and a scenario."""
    assert len(ALL) >= 26
    assert {it.caught_by for it in ALL} <= set(PROPERTIES)
    assert {it.scenario for it in ALL} <= set(SCENARIOS)


@pytest.mark.parametrize("specimen", ALL, ids=lambda specimen: specimen.name)
def test_a_specimen_is_short_and_names_its_origin(specimen: Specimen) -> None:
    """One file that fits a page, whose docstring says where the bug was found."""
    module = inspect.getmodule(specimen.lock or specimen.strategy)
    assert module is not None
    assert "Origin:" in (module.__doc__ or "")
    assert len(inspect.getsource(module).splitlines()) <= LONGEST_FILE
