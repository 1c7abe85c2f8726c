"""Tokens that are not ours to the letter are refused, each for its own reason."""

import base64
import hashlib
import hmac
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2 as httpx
import pytest
import pytest_asyncio

from labshop.api.tokens import MAX_TOKEN_CHARS
from labshop.clock import SystemClock
from labshop.settings import Settings
from labshop.stack.nodes import ServerNode
from tests.api.conftest import Buyer, Door, open_door, problem
from tests.conftest import SECRET, connected

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEADER = {"alg": "HS256", "kid": "1", "typ": "JWT"}
REFUSED = (401, "Not signed in")
FAR_S = 4_000_000_000
FUZZED = 2_000


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(
    claims: Any, header: Any = HEADER, *, secret: str = SECRET, algorithm: str = "sha256"
) -> str:
    """A token that is signed properly, whatever it says."""
    signed = f"{part(header)}.{part(claims)}"
    signature = hmac.new(secret.encode(), signed.encode(), getattr(hashlib, algorithm)).digest()
    return f"{signed}.{part(signature)}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(valkey: ServerNode, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    """One shop for all tokens: none of them changes it."""
    home = tmp_path_factory.mktemp("tokens")
    async with connected(valkey):
        pass
    async with open_door(Settings(home=home, jwt_secret=SECRET), valkey.url) as opened:  # type: ignore[arg-type]  # pydantic wraps it
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ada(door: Door) -> Buyer:
    return await door.buyer("ada")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stranger(door: Door) -> httpx.AsyncClient:
    return await door.client()


@pytest.fixture
def claims(ada: Buyer) -> dict[str, Any]:
    """What a token of Ada's says, with a time that is neither over nor to come."""
    now_s = int(SystemClock().wall_s())
    return {
        "aud": "labshop-buyers",
        "exp": now_s + 60,
        "iat": now_s,
        "iss": "labshop",
        "jti": "0123456789abcdef" * 2,
        "sub": str(ada.id),
    }


async def ask(stranger: httpx.AsyncClient, presented: str | bytes) -> httpx.Response:
    raw = presented.encode() if isinstance(presented, str) else presented
    return await stranger.get("/orders", headers=[(b"authorization", b"Bearer " + raw)])


async def test_control_a_token_made_by_this_test_is_accepted(
    stranger: httpx.AsyncClient, claims: dict[str, Any], ada: Buyer
) -> None:
    """Control: what the tests below alter is accepted as it stands, and so is the shop's own."""
    assert (await ask(stranger, token(claims))).status_code == 200
    assert (await ada.http.get("/orders")).status_code == 200


HEADERS: dict[str, Any] = {
    "none": {"alg": "none", "kid": "1", "typ": "JWT"},
    "None": {"alg": "None", "kid": "1", "typ": "JWT"},
    "no alg": {"kid": "1", "typ": "JWT"},
    "no kid": {"alg": "HS256", "typ": "JWT"},
    "other kid": {"alg": "HS256", "kid": "2", "typ": "JWT"},
    "kid is a number": {"alg": "HS256", "kid": 1, "typ": "JWT"},
    "kid is a path": {"alg": "HS256", "kid": "../../dev/null", "typ": "JWT"},
    "crit": {**HEADER, "crit": ["exp"]},
    "unknown crit": {**HEADER, "crit": ["labshop"], "labshop": True},
    "no typ": {"alg": "HS256", "kid": "1"},
    "other typ": {"alg": "HS256", "kid": "1", "typ": "at+jwt"},
    "small typ": {"alg": "HS256", "kid": "1", "typ": "jwt"},
    "jku": {**HEADER, "jku": "http://127.0.0.1:1/keys"},
    "jwk": {**HEADER, "jwk": {"kty": "oct", "k": part(b"mine")}},
    "zip": {**HEADER, "zip": "DEF"},
    "b64": {**HEADER, "b64": False},
    "alg is a list": {"alg": ["HS256"], "kid": "1", "typ": "JWT"},
    "a list": [HEADER],
    "null": None,
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
async def test_a_header_other_than_ours_is_refused(
    stranger: httpx.AsyncClient, claims: dict[str, Any], header: Any
) -> None:
    """A token whose header is not ours to the letter is refused, though it is signed."""
    assert problem(await ask(stranger, token(claims, header))) == REFUSED


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [("HS384", "sha384"), ("HS512", "sha512"), ("RS256", "sha256"), ("ES256", "sha256")],
)
async def test_another_algorithm_is_refused(
    stranger: httpx.AsyncClient, claims: dict[str, Any], name: str, algorithm: str
) -> None:
    """The same secret by another algorithm is refused, and so is an asymmetric name on it."""
    presented = token(claims, {**HEADER, "alg": name}, algorithm=algorithm)

    assert problem(await ask(stranger, presented)) == REFUSED


@pytest.mark.parametrize("name", ["aud", "exp", "iat", "iss", "jti", "sub"])
async def test_each_claim_is_required(
    stranger: httpx.AsyncClient, claims: dict[str, Any], name: str
) -> None:
    """A token that lacks a claim, or has it empty, is refused."""
    without = {key: value for key, value in claims.items() if key != name}

    assert problem(await ask(stranger, token(without))) == REFUSED
    nothings: list[Any] = [None, "", [], {}]
    for nothing in nothings:
        assert problem(await ask(stranger, token({**claims, name: nothing}))) == REFUSED


CLAIMS: list[dict[str, Any]] = [
    {"exp": str(FAR_S)},
    {"exp": float(FAR_S)},
    {"exp": True},
    {"exp": 2**63},
    {"exp": 10**400},
    {"exp": float("inf")},
    {"exp": float("nan")},
    {"exp": -1},
    {"exp": 0},
    {"iat": FAR_S},
    {"iat": 1.5},
    {"iat": "0"},
    {"iat": False},
    {"aud": "others"},
    {"aud": ["labshop-buyers"]},
    {"aud": ["labshop-buyers", "others"]},
    {"iss": "others"},
    {"iss": ["labshop"]},
    {"sub": "-1"},
    {"sub": "0"},
    {"sub": "+1"},
    {"sub": " 1"},
    {"sub": "1.0"},
    {"sub": "1_0"},
    {"sub": "admin"},
    {"sub": "²"},
    {"sub": "\u0661"},
    {"sub": str(2**31)},
    {"sub": str(2**64)},
    {"sub": "9" * 500},
    {"sub": 2},
    {"sub": True},
    {"jti": "short"},
    {"jti": "0" * 31},
    {"jti": "0" * 33},
    {"jti": "'" * 32},
    {"jti": "é" * 32},
    {"jti": "\ud800" * 32},
    {"jti": 10**31},
    {"nbf": FAR_S},
    {"nbf": 0},
    {"role": "admin"},
]


@pytest.mark.parametrize("change", CLAIMS, ids=lambda change: str(change)[:40])
async def test_a_claim_of_another_form_is_refused(
    stranger: httpx.AsyncClient, claims: dict[str, Any], change: dict[str, Any]
) -> None:
    """A claim of a wrong type or value, or one too many, is refused, though it is signed."""
    assert problem(await ask(stranger, token({**claims, **change}))) == REFUSED


async def test_a_token_ends_by_the_second(
    stranger: httpx.AsyncClient, claims: dict[str, Any]
) -> None:
    """A token whose end is this second, or lies behind, is refused."""
    now_s = int(SystemClock().wall_s())
    for over_s in (0, 1, 3_600):
        presented = token({**claims, "exp": now_s - over_s, "iat": now_s - 7_200})
        assert problem(await ask(stranger, presented)) == REFUSED


SHAPES: dict[str, Callable[[str], str | bytes]] = {
    "nothing": lambda _: "",
    "a dot": lambda _: ".",
    "two dots": lambda _: "..",
    "altered signature": lambda good: good[:-2] + ("AA" if good[-2:] != "AA" else "BB"),
    "empty signature": lambda good: good[: good.rindex(".") + 1],
    "no signature": lambda good: good[: good.rindex(".")],
    "signature of a stranger": lambda _: token({}, secret="x" * 32),
    "five parts, as of a JWE": lambda good: f"{good}.AA.AA",
    "four parts": lambda good: f"{good}.",
    "a JWE by name": lambda good: ".".join(
        [part({"alg": "dir", "enc": "A256GCM"}), "", *good.split(".")]
    ),
    "padded": lambda good: good + "==",
    "altered claims": lambda good: ".".join(
        [good.split(".")[0], part({"sub": "1"}), good.split(".")[2]]
    ),
    "too long": lambda good: good + "A" * (MAX_TOKEN_CHARS + 1 - len(good)),
    "far too long": lambda good: good + "A" * 200_000,
    "not ASCII": lambda good: good.encode() + "é".encode("latin-1"),
    "NUL": lambda good: good.encode() + b"\x00",
    "two tokens": lambda good: f"{good} {good}",
    "deep claims": lambda _: token(b'{"sub":' + b"[" * 600 + b"]" * 600 + b"}"),
    "deep header": lambda good: f"{part(b'[' * 900)}.{good.split('.')[1]}.AA",
}


@pytest.mark.parametrize("bend", SHAPES.values(), ids=SHAPES)
async def test_a_token_of_another_shape_is_refused(
    stranger: httpx.AsyncClient, claims: dict[str, Any], bend: Callable[[str], str | bytes]
) -> None:
    """A token of another shape, or with a signature that is not its own, is refused."""
    assert problem(await ask(stranger, bend(token(claims)))) == REFUSED


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ", "Basic YWRhOmFkYQ==", "Token {}", "{}", "Bearer\t{}"]
)
async def test_another_scheme_is_refused(
    stranger: httpx.AsyncClient, claims: dict[str, Any], value: str
) -> None:
    """A good token under another scheme, or none, is refused."""
    header = {"Authorization": value.replace("{}", token(claims))}

    assert problem(await stranger.get("/orders", headers=header)) == REFUSED


async def test_no_header_is_refused(stranger: httpx.AsyncClient) -> None:
    """Who brings no token is refused, and told the scheme."""
    refused = await stranger.get("/orders")

    assert problem(refused) == REFUSED
    assert refused.headers["www-authenticate"] == "Bearer"


async def test_fuzzed_tokens_are_refused(
    stranger: httpx.AsyncClient, claims: dict[str, Any]
) -> None:
    """Two thousand tokens with random damage are refused, every one, and none is a defect."""
    rng = random.Random(20_261_127)
    good = token(claims).encode()
    damaged = {damage(rng, good) for _ in range(FUZZED)} - {good}
    assert len(damaged) > FUZZED * 0.95

    for presented in damaged:
        assert problem(await ask(stranger, presented)) == REFUSED, presented


def damage(rng: random.Random, good: bytes) -> bytes:
    """One to four random edits. The last character holds bits that mean nothing: it is kept."""
    data = bytearray(good[:-1])
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) - 1)
        match rng.randrange(5):
            case 0:
                data[at] = rng.choice(b"ABCabc012-_.")
            case 1:
                data[at] = rng.choice([*range(0x20, 0x7F), *range(0x80, 0x100)])
            case 2:
                del data[at]
            case 3:
                data[at:at] = rng.randbytes(2).hex().encode()
            case _:
                end = min(len(data), at + rng.randrange(1, 40))
                data[at:end] = bytes(reversed(data[at:end]))
    return bytes(data) + good[-1:]
