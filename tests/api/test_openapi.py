"""The description and the shop agree: schemathesis sends what the one allows to the other.

It sends a table of boundary values for every operation, and then random requests, good and
bad ones. The stream of events never ends; it has a file of its own, test_events.py.
"""

import asyncio
import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import FailureGroup

from labshop.api.app import create_app
from labshop.settings import Settings
from labshop.stack.leash import Leash
from labshop.stack.nodes import ServerNode
from tests.api.process import ApiProcess
from tests.conftest import SECRET, connected, eventually

MAX_EXAMPLES = 60

description = create_app(
    Settings(home=Path("nowhere"), jwt_secret=SECRET, admin_password=SECRET),  # type: ignore[arg-type]  # pydantic wraps them
    gate_url="redis://127.0.0.1:1",
).openapi()
config = SchemathesisConfig.from_dict(
    {
        "generation": {"deterministic": True},
        "operations": [
            {
                # That v1 sells one product at a time is a rule that no schema can say.
                "include-path": "/v1/purchases",
                "checks": {"positive_data_acceptance": {"expected-statuses": [201, 404, 409, 422]}},
            }
        ],
    }
)
schema = schemathesis.openapi.from_dict(description, config=config).exclude(path="/events")


@pytest.fixture(scope="module")
def api(
    leash: Leash, valkey: ServerNode, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiProcess]:
    folder = tmp_path_factory.mktemp("openapi")
    process = ApiProcess(leash, folder, gate_url=valkey.url, secret=SECRET)
    asyncio.run(_ready(valkey, process))
    yield process
    process.kill()


async def _ready(valkey: ServerNode, process: ApiProcess) -> None:
    async with connected(valkey):
        pass
    await eventually(process.sells)


OPERATIONS = [
    pytest.param(operation, id=f"{method.upper()} {path}")
    for path, methods in description["paths"].items()
    for method, operation in methods.items()
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_is_described(operation: dict[str, Any]) -> None:
    """An operation says what it does, what it gives, and that its errors are problem documents."""
    assert operation["summary"]
    assert operation["description"]
    assert operation["tags"]
    responses = operation["responses"]
    assert [status for status in responses if status < "400"]
    assert {"400", "408", "413", "422", "503"} <= set(responses)
    for status, response in responses.items():
        if status >= "400":
            assert list(response["content"]) == ["application/problem+json"]
            assert response["description"]


def test_every_reference_in_the_description_leads_somewhere() -> None:
    """No schema is named that is not there."""
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(description)))

    assert named <= set(description["components"]["schemas"])
    assert "Problem" in named


@schema.parametrize()
@settings(
    max_examples=MAX_EXAMPLES,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_operation_keeps_to_its_description(case: Any, api: ApiProcess) -> None:
    """Whatever is sent, the answer is one of those described, and never a 500."""
    # One operation logs out, so every request has a token of its own.
    case.call_and_validate(api.url, headers={"Authorization": f"Bearer {api.token(1)}"})


def test_control_an_answer_that_is_not_described_is_found(api: ApiProcess) -> None:
    """Control: with one status struck from the description, the same check fails."""
    lying = copy.deepcopy(description)
    del lying["paths"]["/products/{product_id}"]["get"]["responses"]["404"]
    truth, lie = (
        schemathesis.openapi.from_dict(said)["/products/{product_id}"]["GET"].Case(
            path_parameters={"product_id": 11}
        )
        for said in (description, lying)
    )

    truth.call_and_validate(api.url)
    with pytest.raises(FailureGroup, match="Undocumented status code"):
        lie.call_and_validate(api.url)
