"""What the contract is held against: every stage of the course, or a strategy of your own.

python -m pytest tests/contract --strategy mine:MyPurchase
"""

from collections.abc import Iterator

import pytest

from labshop.lab.trial import Arena
from labshop.lab.trial.run import MakeStrategy
from labshop.stages import STAGES
from labshop.stages.base import load_strategy


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One set of tests a stage; with --strategy, that one alone."""
    if "path" in metafunc.fixturenames:
        own = metafunc.config.getoption("--strategy")
        chosen = {"own": own} if own else STAGES
        metafunc.parametrize("path", chosen.values(), ids=chosen.keys(), scope="module")


@pytest.fixture
def strategy(path: str) -> MakeStrategy:
    """The strategy that is tried."""
    return load_strategy(path)


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    """The servers of one worker."""
    with Arena() as arena:
        yield arena
