"""The boundary table: what no schema-driven fuzzer thinks of, in every place that takes input.

Every answer is a problem document that blames the request, and nothing is sold by it.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from labshop.settings import Settings
from labshop.shop.domain import MAX_LINES, MAX_QUANTITY
from labshop.stack.nodes import ServerNode
from tests.api.conftest import ONE, Buyer, Door, open_door, problem
from tests.conftest import SECRET, connected

pytestmark = pytest.mark.asyncio(loop_scope="module")

DIGITS = "9" * 4_400
UNREADABLE = (400, "Bad Request")
INVALID = (422, "Invalid request")
NUMBERS = [
    *("-1", "0", "-0", str(2**31), str(2**63), str(2**64), DIGITS, f"-{DIGITS}"),
    *("NaN", "Infinity", "-Infinity", "1e400", "5.0", "1e0", "1.5"),
    *("true", "null", "[]", "{}", "[1]", '"5"', '""', '"\\ud800"', '"\\u0000"'),
]
PATH_IDS = [
    *("-1", "0", str(2**31), str(2**63), str(2**64), DIGITS, "NaN", "Infinity", "1e400", "true"),
    *("5.0", "+5", "%205", "5%20", "05", "1_0", "0x1", "null", "%225%22", "%5B%5D", "%7B%7D"),
    *("%00", "5%00", "%FF", "%ED%A0%80", "%D9%A1", "%EF%BC%95", "..%2F1"),
]
ORDER_IDS = [
    *PATH_IDS,
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "00000000-0000-0000-0000-00000000000g",
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(valkey: ServerNode, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    """One shop for the whole table; in the end it has sold nothing."""
    home = tmp_path_factory.mktemp("boundaries")
    async with connected(valkey):
        pass
    settings = Settings(home=home, jwt_secret=SECRET, user_burst=1_000_000)  # type: ignore[arg-type]  # pydantic wraps it
    async with open_door(settings, valkey.url) as opened:
        yield opened
        assert await opened.books() == (100, 100, 0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ada(door: Door) -> Buyer:
    return await door.buyer("ada")


async def refuses(
    door: Door, ada: Buyer, body: str | bytes, *, path: str = "/v1/purchases", **headers: str
) -> tuple[int, str]:
    """Post a body as it is; the answer blames the request, and the stock is as it was."""
    headers = {"Content-Type": "application/json", **headers}
    answer = await ada.http.post(path, content=body, headers=headers)
    assert await door.books() == (100, 100, 0)
    return problem(answer)


@pytest.mark.parametrize("number", [*NUMBERS, str(MAX_QUANTITY + 1)], ids=lambda n: n[:24])
async def test_a_quantity_that_is_none(door: Door, ada: Buyer, number: str) -> None:
    """A quantity is a whole number from 1 to 100 in the form of one."""
    body = f'{{"lines": [{{"product_id": 1, "quantity": {number}}}]}}'

    assert await refuses(door, ada, body) == (UNREADABLE if DIGITS in number else INVALID)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: n[:24])
async def test_an_id_that_is_none(door: Door, ada: Buyer, number: str) -> None:
    """A product's or bundle's id is a whole number from 1 to 2³¹ - 1 in the form of one."""
    product = f'{{"lines": [{{"product_id": {number}, "quantity": 1}}]}}'
    bundle = f'{{"bundle_id": {number}}}'

    expected = UNREADABLE if DIGITS in number else INVALID

    assert await refuses(door, ada, product) == expected
    assert await refuses(door, ada, bundle) == expected


async def test_the_greatest_ids_are_looked_up(door: Door, ada: Buyer) -> None:
    """Control: the greatest id is a possible one; there is no such product, and no such bundle."""
    product = f'{{"lines": [{{"product_id": {2**31 - 1}, "quantity": 1}}]}}'

    assert await refuses(door, ada, product) == (404, "No such product")
    assert await refuses(door, ada, f'{{"bundle_id": {2**31 - 1}}}') == (404, "No such bundle")


LINES: list[Any] = [
    [],
    None,
    {},
    "lines",
    5,
    [None],
    [[]],
    ["1"],
    [{}],
    [{"product_id": 1}],
    [{"quantity": 1}],
    [{"product_id": 1, "quantity": 1, "price_minor": 1}],
    [{"product_id": number, "quantity": 1} for number in range(1, MAX_LINES + 2)],
    [{"product_id": 1, "quantity": 1}] * 200,
]


@pytest.mark.parametrize("lines", LINES, ids=lambda lines: str(lines)[:24])
async def test_lines_that_are_none(door: Door, ada: Buyer, lines: Any) -> None:
    """An order has one to ten lines, each of a product and a quantity and of nothing else."""
    assert await refuses(door, ada, json.dumps({"lines": lines})) == INVALID


async def test_lines_are_summed_before_they_are_judged(door: Door, ada: Buyer) -> None:
    """Ten lines of one product that are too many together are refused, each being allowed."""
    lines = [{"product_id": 1, "quantity": 20}] * 10

    assert await refuses(door, ada, json.dumps({"lines": lines})) == (422, "Bad order")


BODIES: dict[str, str | bytes] = {
    "empty": "",
    "blank": " \n",
    "null": "null",
    "a number": "5",
    "a string": '"lines"',
    "a list": "[]",
    "an empty object": "{}",
    "cut off": '{"lines": [{"product_id": 1, "quantity": 1}]',
    "two documents": json.dumps(ONE) * 2,
    "a comment": json.dumps(ONE) + "// one",
    "single quotes": "{'bundle_id': 1}",
    "both kinds": json.dumps({**ONE, "bundle_id": 1}),
    "an unknown field": json.dumps({**ONE, "user_id": 1}),
    "a prototype": json.dumps({**ONE, "__proto__": {"lines": []}}),
    "a lone surrogate as a name": '{"\\ud800": 1}',
    "a lone surrogate as a name of a line": '{"lines": [{"\\ud800": 1}]}',
    "a NUL as a name": '{"\\u0000": 1}',
    "a name of 10,000 letters": json.dumps({"x" * 10_000: 1}),
    "1,000 unknown names": json.dumps({f"x{number}": 1 for number in range(1_000)}),
    "twice the same field, the last is wrong": '{"bundle_id": 1, "bundle_id": 0}',
    "NUL": b"\x00",
    "not UTF-8": b'{"bundle_id": "\xff\xfe"}',
    "half of UTF-16": b"\xff\xfe{\x00",
    "a surrogate in UTF-8": b'{"bundle_id": "\xed\xa0\x80"}',
    "8,000 lists": b"[" * 8_000 + b"]" * 8_000,
    "16,000 open lists": b"[" * 16_000,
    "2,500 objects": b'{"a":' * 2_500 + b"1" + b"}" * 2_500,
    "deep in a line": b'{"lines": ' + b"[" * 8_000 + b"]" * 8_000 + b"}",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_body_that_is_none(door: Door, ada: Buyer, body: str | bytes) -> None:
    """A body that is not one JSON object of the right form is refused."""
    assert await refuses(door, ada, body) in {UNREADABLE, INVALID}


async def test_brackets_beyond_the_limit_are_not_even_parsed(door: Door, ada: Buyer) -> None:
    """A hundred thousand brackets are too large a body before they are too deep a one."""
    assert await refuses(door, ada, b"[" * 100_000) == (413, "Content Too Large")


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "é"],
)
async def test_a_body_of_another_type(door: Door, ada: Buyer, content_type: str) -> None:
    """A good order that does not call itself JSON is refused."""
    answer = await ada.http.post(
        "/v1/purchases",
        content=json.dumps(ONE),
        headers=[(b"content-type", content_type.encode("latin-1"))],
    )

    assert problem(answer) == INVALID
    assert await door.books() == (100, 100, 0)


KEYS = [b"", b" ", b"a b", b"x" * 256, b"x" * 60_000, "é".encode("latin-1"), "é".encode(), b"\x7f"]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: str(key[:16]))
async def test_an_idempotency_key_that_is_none(door: Door, ada: Buyer, key: bytes) -> None:
    """An idempotency key is 1 to 255 printable ASCII characters; another is refused, not cut."""
    answer = await ada.http.post("/v1/purchases", json=ONE, headers=[(b"idempotency-key", key)])

    assert problem(answer) == INVALID
    assert await door.books() == (100, 100, 0)


async def test_two_idempotency_keys_are_none(door: Door, ada: Buyer) -> None:
    """A request under two names is refused: each of them could be the one that counts."""
    headers = [(b"idempotency-key", b"one"), (b"idempotency-key", b"two")]
    answer = await ada.http.post("/v1/purchases", json=ONE, headers=headers)

    assert problem(answer) == (422, "Bad order")
    assert await door.books() == (100, 100, 0)


@pytest.mark.parametrize("value", PATH_IDS, ids=lambda value: value[:24])
async def test_a_product_id_in_a_path_that_is_none(ada: Buyer, value: str) -> None:
    """A product's id in a path is a whole number written in digits alone."""
    for path in (f"/products/{value}", f"/products/{value}/stock"):
        status, _ = problem(await ada.http.get(path))
        assert status in {404, 422}


@pytest.mark.parametrize("value", ORDER_IDS, ids=lambda value: value[:36])
async def test_an_order_id_that_is_none(ada: Buyer, value: str) -> None:
    """An order that cannot be is not found, and not cancelled."""
    for method in ("GET", "DELETE"):
        status, _ = problem(await ada.http.request(method, f"/orders/{value}"))
        assert status in {404, 422}


@pytest.mark.parametrize("value", [*PATH_IDS, "101", ""], ids=lambda value: value[:24])
async def test_a_limit_that_is_none(ada: Buyer, value: str) -> None:
    """The length of a page is 1 to 100, in digits alone."""
    assert problem(await ada.http.get(f"/orders?limit={value}")) == INVALID


@pytest.mark.parametrize(
    "value",
    ["1000001", "", *(value for value in PATH_IDS if value != "0")],
    ids=lambda value: value[:24],
)
async def test_an_offset_that_is_none(ada: Buyer, value: str) -> None:
    """The start of a page is 0 to 1,000,000, in digits alone."""
    assert problem(await ada.http.get(f"/orders?offset={value}")) == INVALID


TEXTS = ['"\\ud800"', '"ada\\u0000"', '"\\udc00\\ud800"', '"\\u0007\\u0007\\u0007ada12"', "5", "[]"]


@pytest.mark.parametrize("field", ["name", "password"])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("path", ["/auth/signup", "/auth/login"])
async def test_a_text_that_is_none(
    door: Door, ada: Buyer, path: str, text: str, field: str
) -> None:
    """A lone surrogate, a NUL or another type in a name or a password is refused."""
    fields = {"name": '"grace"', "password": '"correct horse"', field: text}
    body = "{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}"

    assert await refuses(door, ada, body, path=path) == INVALID
    assert await door.shop.accounts.by_name("grace") is None


@pytest.mark.parametrize("path", ["/", "/products/", "/nothing", "//products", "/v9/purchases"])
async def test_a_path_that_is_none(ada: Buyer, path: str) -> None:
    """Where there is nothing, the answer is a problem document, and no redirection."""
    assert problem(await ada.http.get(f"http://shop{path}")) == (404, "Not Found")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "OPTIONS", "HEAD", "BREW"])
async def test_a_method_that_is_none(ada: Buyer, method: str) -> None:
    """Another method is refused by a problem document that names those there are."""
    answer = await ada.http.request(method, "/v1/purchases")

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_control_the_order_that_is_bent_above_is_a_good_one(door: Door, ada: Buyer) -> None:
    """Control: the order as it stands is booked, and cancelled again for the next test."""
    booked = await ada.buy(key="x" * 255)
    assert booked.status_code == 201
    assert await door.books() == (99, 99, 1)

    await ada.http.delete(f"/orders/{booked.json()['order_id']}")
    assert await door.books() == (100, 100, 0)


async def test_an_unknown_query_is_none(ada: Buyer) -> None:
    """A misspelt parameter is refused, and not passed over in silence."""
    assert problem(await ada.http.get("/orders?ofset=1")) == INVALID
