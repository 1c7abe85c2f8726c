"""A setting that cannot be used ends the start in one sentence."""

from pathlib import Path

import pytest

from labshop.api.app import create_app
from labshop.api.tokens import Tokens
from labshop.clock import SystemClock
from labshop.errors import SetupError
from labshop.settings import Settings
from labshop.stack.leash import Leash
from tests.api.conftest import StartApi
from tests.api.process import ApiProcess
from tests.conftest import SECRET

NOWHERE = "redis://127.0.0.1:1"


@pytest.mark.parametrize("secret", ["", "x" * 31, "é" * 15])
def test_a_weak_secret_refuses_to_start(secret: str, tmp_path: Path) -> None:
    """A secret of less than 32 bytes, or none, is a setup error in plain words."""
    settings = Settings(home=tmp_path, jwt_secret=secret)  # type: ignore[arg-type]  # pydantic wraps it

    with pytest.raises(SetupError, match="at least 32 bytes"):
        create_app(settings, gate_url=NOWHERE)


def test_control_a_secret_of_32_bytes_starts() -> None:
    """Control: one byte more, counted as bytes, is enough."""
    assert Tokens("é" * 16, ttl_s=60, clock=SystemClock()).issue(1).count(".") == 2


@pytest.mark.parametrize("secret", [None, SECRET])
def test_a_home_that_cannot_be_a_folder_refuses_to_start(
    secret: str | None, tmp_path: Path
) -> None:
    """A home below a file is named before anything is served, whoever gives the secrets."""
    (tmp_path / "file").touch()
    settings = Settings(home=tmp_path / "file" / "home", jwt_secret=secret)  # type: ignore[arg-type]  # pydantic wraps it

    with pytest.raises(SetupError, match="LABSHOP_HOME"):
        create_app(settings, gate_url=NOWHERE)


@pytest.mark.parametrize("url", ["nonsense", "mysql://localhost/x", "oracle:"])
def test_a_database_url_of_no_use_refuses_to_start(url: str, tmp_path: Path) -> None:
    """A database URL that nothing here understands is a setup error that names its variable."""
    settings = Settings(home=tmp_path, jwt_secret=SECRET, database_url=url)  # type: ignore[arg-type]  # pydantic wraps it

    with pytest.raises(SetupError, match="LABSHOP_DATABASE_URL"):
        create_app(settings, gate_url=NOWHERE)


@pytest.mark.parametrize("strategy", ["nonsense", "no.such:Thing", "labshop.settings:Settings"])
def test_a_strategy_of_no_use_refuses_to_start(strategy: str, tmp_path: Path) -> None:
    """A strategy that is none is a setup error that names it."""
    settings = Settings(home=tmp_path, jwt_secret=SECRET, strategy=strategy)  # type: ignore[arg-type]  # pydantic wraps it

    with pytest.raises(SetupError, match=strategy):
        create_app(settings, gate_url=NOWHERE)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:notaport", "redis://127.0.0.1:99999"])
def test_a_gate_url_of_no_use_refuses_to_start(url: str, tmp_path: Path) -> None:
    """A gate URL that cannot be read is a setup error that names its variable."""
    settings = Settings(home=tmp_path, jwt_secret=SECRET)  # type: ignore[arg-type]  # pydantic wraps it

    with pytest.raises(SetupError, match="LABSHOP_GATE_URL"):
        create_app(settings, gate_url=url)


async def test_a_port_that_is_taken_ends_the_start(start_api: StartApi, leash: Leash) -> None:
    """A server whose port is taken ends with a sentence that says so, and without a traceback."""
    first = await start_api()
    second = ApiProcess(leash, first.log.parent, gate_url=NOWHERE, secret=SECRET, port=first.port)

    assert await second.wait(within_s=20) == 3  # as uvicorn ends when it cannot start
    assert "address already in use" in second.log.read_text().lower()
    assert "Traceback" not in second.log.read_text()
    assert await first.sells()
