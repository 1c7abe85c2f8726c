"""What the contract is held against: every stage of the course, or a strategy of your own.

python -m pytest tests/contract --strategy mine:MyPurchase

And on which stores: those of the lab, SQLite and one Redis, by default; with --stores, all of the
suite on others, as far as these can be hurt so.

python -m pytest tests/contract --stores postgresql
"""

from collections.abc import Iterator

import pytest

from labshop.lab.trial import Arena
from labshop.lab.trial.gates import of_cluster, of_pair
from labshop.lab.trial.run import MakeStrategy
from labshop.stack.postgres import PostgresServer
from labshop.stack.sentinels import SentinelPair
from labshop.stages import STAGES
from labshop.stages.base import load_strategy
from tests.topologies import replicated_cluster

WITH_A_LOCK_AND_WITHOUT = ("v1", "v4")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One set of tests a stage; with --strategy, that one alone. What is slow has two stages."""
    own = metafunc.config.getoption("--strategy")
    for name, stages in (("path", tuple(STAGES)), ("path_of_two", WITH_A_LOCK_AND_WITHOUT)):
        if name in metafunc.fixturenames:
            chosen = {"own": own} if own else {stage: STAGES[stage] for stage in stages}
            metafunc.parametrize(name, chosen.values(), ids=chosen.keys(), scope="module")


@pytest.fixture
def strategy(path: str) -> MakeStrategy:
    """The strategy that is tried."""
    return load_strategy(path)


@pytest.fixture
def strategy_of_two(path_of_two: str) -> MakeStrategy:
    """The strategy that is tried where trials are slow."""
    return load_strategy(path_of_two)


@pytest.fixture(scope="module")
def lab() -> Iterator[Arena]:
    """The lab's own stores, one set per worker."""
    with Arena() as arena:
        yield arena


@pytest.fixture(scope="module")
def postgresql(postgres: PostgresServer) -> Iterator[Arena]:
    """The same, but for the ledger."""
    with Arena(database_url=postgres.url()) as arena:
        yield arena


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """The same, but for the gate."""
    with SentinelPair(tmp_path_factory.mktemp("pair")) as pair, Arena(gate=of_pair(pair)) as arena:
        yield arena


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """The same, but for the gate."""
    with (
        replicated_cluster(tmp_path_factory.mktemp("cluster")) as servers,
        Arena(gate=of_cluster(servers)) as arena,
    ):
        yield arena


@pytest.fixture
def arena(request: pytest.FixtureRequest) -> Arena:
    """The stores of --stores, or those that a test asks for by their name."""
    stores = getattr(request, "param", request.config.getoption("--stores"))
    found: Arena = request.getfixturevalue(stores)
    return found
