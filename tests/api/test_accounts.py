"""Signing up, logging in and out, and what a guesser learns: nothing."""

import httpx2 as httpx
import pytest
from sqlmodel import col, delete

from labshop.api.auth import PER_NAME
from labshop.storage.tables import User
from tests.api.conftest import Buyer, Door, StartApi, problem

PASSWORD = "correct horse battery staple"
ADA = {"name": "ada", "password": PASSWORD}


async def test_a_user_signs_up_logs_in_and_out(client: httpx.AsyncClient) -> None:
    """A user who signed up logs in with a bearer token, and is a stranger after logging out."""
    signed_up = await client.post("/auth/signup", json=ADA)
    logged_in = await client.post("/auth/login", json=ADA)
    header = {"Authorization": f"Bearer {logged_in.json()['access_token']}"}
    orders = await client.get("/orders", headers=header)
    logged_out = await client.post("/auth/logout", headers=header)
    refused = await client.get("/orders", headers=header)

    assert signed_up.status_code == 201
    assert signed_up.json() == {"id": 2, "name": "ada", "role": "buyer"}  # 1 is the administrator
    assert logged_in.status_code == 200
    assert logged_in.json()["token_type"] == "bearer"
    assert logged_in.json()["expires_in_s"] == 3_600
    assert (orders.status_code, orders.json()) == (200, [])
    assert (logged_out.status_code, logged_out.content) == (204, b"")
    assert problem(refused) == (401, "Not signed in")
    assert refused.headers["www-authenticate"] == "Bearer"


async def test_a_log_out_ends_one_token_only(door: Door) -> None:
    """A user's other token outlives the log-out."""
    first = await door.buyer("ada")
    second = await door.returning(first.id)

    assert (await first.http.post("/auth/logout")).status_code == 204

    assert problem(await first.http.get("/orders")) == (401, "Not signed in")
    assert problem(await first.http.post("/auth/logout")) == (401, "Not signed in")
    assert (await second.http.get("/orders")).status_code == 200


async def test_wrong_password_and_unknown_name_are_answered_alike(
    client: httpx.AsyncClient,
) -> None:
    """A wrong password and a name that nobody has get the same bytes."""
    await client.post("/auth/signup", json=ADA)

    wrong = await client.post("/auth/login", json={"name": "ada", "password": "wrong horse"})
    unknown = await client.post("/auth/login", json={"name": "bob", "password": "wrong horse"})

    assert problem(wrong) == (401, "Wrong credentials")
    assert (unknown.status_code, unknown.content) == (wrong.status_code, wrong.content)
    assert dict(unknown.headers) == dict(wrong.headers)


@pytest.mark.usefixtures("buyer")
async def test_a_user_without_a_password_cannot_log_in(client: httpx.AsyncClient) -> None:
    """A user whose stored hash is none at all is refused like a wrong password."""
    refused = await client.post("/auth/login", json={"name": "ada", "password": PASSWORD})

    assert problem(refused) == (401, "Wrong credentials")


async def test_a_name_is_given_once(client: httpx.AsyncClient) -> None:
    """A second sign-up under a name is refused, and the first one's password stays."""
    await client.post("/auth/signup", json=ADA)

    second = await client.post("/auth/signup", json={**ADA, "password": "another password"})

    assert problem(second) == (409, "Name taken")
    assert (await client.post("/auth/login", json=ADA)).status_code == 200


async def test_a_deleted_users_token_is_refused(door: Door, buyer: Buyer) -> None:
    """A token dies with its user."""
    assert (await buyer.http.get("/orders")).status_code == 200

    with door.shop.database.writing() as session:
        session.exec(delete(User).where(col(User.id) == buyer.id))
        session.commit()

    assert problem(await buyer.http.get("/orders")) == (401, "Not signed in")
    assert problem(await buyer.buy()) == (401, "Not signed in")
    assert await door.books() == (100, 100, 0)


async def test_guessing_one_name_is_slowed_down(client: httpx.AsyncClient) -> None:
    """After ten tries in a minute a name is told to wait, also with the right password."""
    await client.post("/auth/signup", json=ADA)
    await client.post("/auth/signup", json={**ADA, "name": "bob"})
    for _ in range(PER_NAME.amount - 1):
        await client.post("/auth/login", json={"name": "ada", "password": "wrong horse"})

    refused = await client.post("/auth/login", json=ADA)
    other = await client.post("/auth/login", json={**ADA, "name": "bob"})

    assert problem(refused) == (429, "Too many tries")
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    assert other.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"name": "ada", "password": "short!!"},
        {"name": "ada", "password": "correct horse", "role": "admin"},
        {"name": "ada", "password": ["correct horse"]},
        {"name": "no spaces allowed", "password": "correct horse"},
        {"name": "ada\n", "password": "correct horse"},
        {"name": "ada", "password": "correct \x00 horse"},
        {"name": "ada", "password": "correct horse" * 10},
        {"name": "correct horse", "Password": "correct horse"},
    ],
)
@pytest.mark.parametrize("path", ["/auth/signup", "/auth/login"])
async def test_a_refusal_does_not_repeat_what_was_sent(
    client: httpx.AsyncClient, path: str, body: dict[str, object]
) -> None:
    """Credentials of a wrong form are refused in words that hold neither name nor password."""
    refused = await client.post(path, json=body)

    assert problem(refused) == (422, "Invalid request")
    assert "horse" not in refused.text
    assert "short!!" not in refused.text


async def test_a_defect_does_not_log_a_password(
    door: Door, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A defect is a 500 that says nothing more, and its log holds no value of the request."""

    async def fail(_name: str) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(door.shop.accounts, "by_name", fail)
    transport = httpx.ASGITransport(door.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        answer = await client.post("/auth/login", json=ADA)

    assert problem(answer) == (500, "Internal Server Error")
    logged = capsys.readouterr().out
    assert "request.defect" in logged
    assert "RuntimeError" in logged
    assert PASSWORD not in logged + answer.text


async def test_a_client_cannot_choose_its_address(start_api: StartApi) -> None:
    """Tries are counted by the address of the connection; X-Forwarded-For is only a claim."""
    api = await start_api()
    async with api.client() as client:
        statuses = []
        for number in range(121):
            header = {"X-Forwarded-For": f"10.0.0.{number}"}
            # After ten tries no password is looked at any more, so this is quick.
            body = {"name": "ada", "password": "wrong horse"}
            statuses.append(
                (await client.post("/auth/login", json=body, headers=header)).status_code
            )
        refused = await client.post(
            "/auth/login",
            json={"name": "bob", "password": "wrong horse"},
            headers={"X-Forwarded-For": "10.0.1.1"},
        )

    assert statuses == [401] * 10 + [429] * 111
    assert problem(refused) == (429, "Too many tries")
