"""The fast lane of stage v4: as right as the ordinary route, which takes whatever is unusual."""

import hmac
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from labshop.api.schemas import OrderOut
from labshop.api.tokens import Claims, TokenRefused, Tokens
from labshop.clock import SystemClock
from labshop.settings import Settings
from labshop.shop.domain import Line, Receipt
from labshop.stack.nodes import ServerNode
from tests.api.conftest import ONE, PRODUCT, Buyer, Door, open_door, problem
from tests.api.test_tokens import part
from tests.conftest import SECRET, connected

PATH = "/v4/purchases"
TOKENS = Tokens(SECRET, ttl_s=600, clock=SystemClock())
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def two_doors(valkey: ServerNode, settings: Settings) -> AsyncIterator[tuple[Door, Door]]:
    """Two applications, as two processes have them, on one ledger and one gate."""
    async with connected(valkey), AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_door(settings, valkey.url))
        yield first, await stack.enter_async_context(open_door(settings, valkey.url))


async def test_it_books_as_the_ordinary_route_does(door: Door, buyer: Buyer) -> None:
    """Both answer 201 with the same fields, and both orders are in the ledger."""
    fast = await buyer.http.post(PATH, json=ONE)
    ordinary = await buyer.http.post(f"{PATH}?unusual", json=ONE)

    assert (fast.status_code, ordinary.status_code) == (201, 201)
    differ = {"order_id", "created_at"}
    bodies = [
        {name: value for name, value in answer.json().items() if name not in differ}
        for answer in (fast, ordinary)
    ]
    assert bodies[0] == bodies[1]
    assert fast.json().keys() == ordinary.json().keys()
    assert await door.books() == (98, 98, 2)
    assert (await buyer.http.get(f"/orders/{fast.json()['order_id']}")).json() == fast.json()


async def test_a_repeated_key_is_booked_once(door: Door, buyer: Buyer) -> None:
    """Under one key, both ways give the first order; another body under it is refused."""
    key = {"Idempotency-Key": "mine"}
    first = await buyer.http.post(PATH, json=ONE, headers=key)
    again = await buyer.http.post(PATH, json=ONE, headers=key)
    around = await buyer.http.post(f"{PATH}?unusual", json=ONE, headers=key)
    other = await buyer.http.post(
        PATH, json={"lines": [{"product_id": PRODUCT, "quantity": 2}]}, headers=key
    )

    assert first.content == again.content
    assert around.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert problem(other) == (422, "Idempotency key reused")
    assert await door.books() == (99, 99, 1)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"lines": [{"product_id": 1, "quantity": 0}]}', 422),
        (b'{"lines": [{"product_id": 1, "quantity": "1"}]}', 422),
        (b'{"lines": [{"product_id": 1, "quantity": NaN}]}', 422),
        (b'{"lines": [{"product_id": 1, "quantity": 9223372036854775808}]}', 422),
        (b'{"lines": [{"product_id": 999, "quantity": 1}]}', 404),
        (b'{"lines": [{"product_id": 1, "quantity": 11}]}', 409),
        (b'{"lines": []}', 422),
        (b'{"bundle_id": 1}', 201),
        (b"{", 422),
        (b"\xff", 400),
        (b"", 422),
    ],
)
async def test_what_is_unusual_is_answered_by_the_ordinary_route(
    door: Door, buyer: Buyer, body: bytes, status: int
) -> None:
    """Bundles are sold, and nonsense is refused with the same words as by any other stage."""
    fast = await buyer.http.post(PATH, content=body, headers=JSON)
    control = await buyer.http.post("/v2/purchases", content=body, headers=JSON)

    assert fast.status_code == status
    if status != 201:
        assert problem(fast) == problem(control)
        assert (await door.books())[2] == 0


async def test_nobody_buys_without_a_token(door: Door) -> None:
    """No token, half a token, and a wrong scheme are refused."""
    ada = await door.buyer("ada")
    nobody = await door.client()
    shown = ada.http.headers["authorization"]
    wrong: tuple[dict[str, str], ...] = (
        {},
        {"Authorization": shown[:-2]},
        {"Authorization": f"Basic {shown[7:]}"},
    )

    for headers in wrong:
        answer = await nobody.post(PATH, json=ONE, headers=headers)
        assert problem(answer) == (401, "Not signed in")


async def test_a_signed_out_token_is_refused_at_once_everywhere(
    two_doors: tuple[Door, Door],
) -> None:
    """Signed out at one process, the token buys nothing at the other, nor after a wiped gate."""
    here, there = two_doors
    ada = await here.buyer("ada")
    elsewhere = Buyer(ada.id, await there.client(ada.http.headers["authorization"].split()[1]))
    assert (await elsewhere.http.post(PATH, json=ONE)).status_code == 201  # the control

    assert (await ada.http.post("/auth/logout")).status_code == 204

    assert problem(await elsewhere.http.post(PATH, json=ONE)) == (401, "Not signed in")
    await here.shop.node.command("FLUSHALL")
    assert problem(await elsewhere.http.post(PATH, json=ONE)) == (401, "Not signed in")
    assert (await here.books())[2] == 1


async def test_a_body_in_pieces_goes_the_ordinary_way(door: Door, buyer: Buyer) -> None:
    """A body that comes in several messages is not decided on its first."""

    async def pieces() -> AsyncIterator[bytes]:
        whole = json.dumps(ONE).encode()
        yield whole[:10]
        yield whole[10:]

    answer = await buyer.http.post(PATH, content=pieces(), headers=JSON)

    assert answer.status_code == 201
    assert await door.books() == (99, 99, 1)


CLAIMS = st.fixed_dictionaries(
    {},
    optional={
        "aud": st.sampled_from(["labshop-buyers", ["labshop-buyers"], "x", None]),
        "exp": st.sampled_from([4_000_000_000, 1, "4000000000", 4e9, True, 2**63]),
        "iat": st.sampled_from([1_700_000_000, 4_000_000_000, "1", None]),
        "iss": st.sampled_from(["labshop", "Labshop", None, ["labshop"]]),
        "jti": st.sampled_from(["0123456789abcdef" * 2, "x", 1, None]),
        "sub": st.sampled_from(["1", "01", "2147483648", 1, "", "1 "]),
        "nbf": st.sampled_from([1, 4_000_000_000]),
    },
)
GOOD = {
    "aud": "labshop-buyers",
    "exp": 4_000_000_000,
    "iat": 1_700_000_000,
    "iss": "labshop",
    "jti": "0123456789abcdef" * 2,
    "sub": "1",
}
EDITS = st.lists(st.tuples(st.floats(0, 1), st.sampled_from(".-_aZ0= \n\u00e9")), max_size=2)


def signed(claims: dict[str, Any]) -> str:
    """A token with our own header, byte for byte, and a right signature."""
    text = f"{TOKENS._header}{part(claims)}"
    digest = hmac.digest(SECRET.encode(), text.encode(), "sha256")
    return f"{text}.{part(digest)}"


def by_library(presented: str) -> Claims | None:
    try:
        return TOKENS.check_by_library(presented)
    except TokenRefused:
        return None


@settings(
    max_examples=1_500,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(claims=CLAIMS, is_whole=st.booleans(), edits=EDITS)
@example(claims=GOOD, is_whole=False, edits=[])
def test_the_fast_check_accepts_what_the_library_accepts(
    claims: dict[str, Any], edits: list[tuple[float, str]], *, is_whole: bool
) -> None:
    """Whatever is claimed, and however it is damaged: the fast check never says yes alone."""
    presented = signed(GOOD | claims if is_whole else claims)
    for where, put in edits:
        at = int(where * len(presented))
        presented = presented[:at] + put + presented[at:]

    fast, slow = TOKENS.check_fast(presented), by_library(presented)

    assert fast is None or fast == slow
    assert edits or fast == slow  # and what is ours is fast


def test_an_order_as_json_is_what_its_model_writes() -> None:
    """The shortcut past the model gives the same bytes, so that both lanes answer alike."""
    lines = (Line(1, 2), Line(7, 1))
    receipt = Receipt(uuid7(), 5, lines, 44_900, 12, 3, "confirmed", datetime.now(UTC))

    assert OrderOut.json_of(receipt) == OrderOut.of(receipt).model_dump_json().encode()


def test_control_our_own_token_takes_the_fast_lane() -> None:
    """A token as it is issued is accepted by both, with the same claims."""
    issued = TOKENS.issue(7)

    fast = TOKENS.check_fast(issued)

    assert fast is not None
    assert fast.user_id == 7
    assert fast == TOKENS.check_by_library(issued)
