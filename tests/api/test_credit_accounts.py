"""Credit accounts over HTTP: whose they are, how they are made, and who may see them."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from billing import ADA, Account
from serving import API, Bearer, CreateKey, bearer
from sqlalchemy import select, update

from app import models
from app.db import Sessions, transaction
from app.services.identity import mint_development_token
from app.settings import Settings

GOOGLE = {"oauth_provider": "oauth:google", "external_id": "user@example.com"}


@pytest.fixture
async def writer(create_key: CreateKey) -> Bearer:
    return await create_key("credits:write")


@pytest.fixture
async def operator(create_key: CreateKey) -> Bearer:
    return await create_key("operator")


async def make(client: httpx.AsyncClient, key: Bearer, **body: Any) -> httpx.Response:
    return await client.post(f"{API}/accounts", json=body, headers=key)


async def made(client: httpx.AsyncClient, key: Bearer, **body: Any) -> dict[str, Any]:
    answer = await make(client, key, **body)
    assert answer.status_code in {200, 201}, answer.text
    account: dict[str, Any] = answer.json()
    return account


async def read(client: httpx.AsyncClient, who: Bearer, id: str) -> httpx.Response:
    return await client.get(f"{API}/accounts/{id}", headers=who)


async def test_an_account_is_made_once_with_its_free_uses(client: httpx.AsyncClient, writer: Bearer) -> None:
    first = await make(client, writer, **GOOGLE, customer_email="user@example.com")
    again = await make(client, writer, **GOOGLE, customer_email="other@example.com")
    assert (first.status_code, again.status_code) == (201, 200)
    account = first.json()
    assert again.json() == account
    assert account == {
        "account_id": account["account_id"],
        "user_id": "google:user@example.com",
        "oauth_provider": "google",
        "external_id": "user@example.com",
        "customer_email": "user@example.com",
        "status": "active",
        "available": 3,
        "free_uses_remaining": 3,
        "credits_remaining": 0,
        "held": 0,
        "owed": 0,
        "total_uses": 0,
        "created_at": account["created_at"],
    }


async def test_one_user_has_one_account_however_they_are_named(
    client: httpx.AsyncClient, writer: Bearer, account: Account
) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    [customer] = account.sandbox.rows("customer")
    by_id = await made(client, writer, user_id=ADA.user_id)
    by_customer = await made(client, writer, customer=customer["id"])
    assert by_id["account_id"] == by_customer["account_id"]
    prefixed = await made(client, writer, **GOOGLE)
    plain = await made(client, writer, oauth_provider="google", external_id="user@example.com")
    joined = await made(client, writer, user_id="google:user@example.com")
    assert {prefixed["account_id"], plain["account_id"], joined["account_id"]} == {prefixed["account_id"]}
    assert prefixed["account_id"] != by_id["account_id"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"oauth_provider": "google"},
        {"external_id": "1"},
        {"oauth_provider": "oauth:", "external_id": "1"},
        {"oauth_provider": "goo:gle", "external_id": "1"},
        {"user_id": "u", "customer": "cus_1"},
        {"user_id": "u", **GOOGLE},
        {"customer": "cus_1", **GOOGLE},
        {"user_id": ""},
        {"user_id": "u", "plan": "pro"},
    ],
)
async def test_an_account_has_to_be_exactly_one_users(
    client: httpx.AsyncClient, writer: Bearer, sessions: Sessions, body: dict[str, Any]
) -> None:
    assert (await make(client, writer, **body)).status_code == 422
    async with sessions() as session:
        assert (await session.scalars(select(models.CreditAccount))).all() == []


async def test_a_customer_who_is_no_user_has_no_account(client: httpx.AsyncClient, writer: Bearer) -> None:
    answer = await make(client, writer, customer="cus_nobody")
    assert (answer.status_code, answer.json()["code"]) == (404, "customer_not_found")


async def test_what_other_services_clients_send_beside_it_is_taken(client: httpx.AsyncClient, writer: Bearer) -> None:
    told = {
        "wa_id": None,
        "tenant_id": "t-1",
        "context": {"agent_id": "a", "channel_id": None, "request_id": "r"},
        "display_name": "User",
        "user_role": "observer",
        "agent_id": "a",
        "marketing_opt_in": True,
        "marketing_opt_in_source": "oauth_login",
    }
    assert (await make(client, writer, **GOOGLE, **told)).status_code == 201


async def test_only_backends_make_accounts(client: httpx.AsyncClient, create_key: CreateKey, ada: Bearer) -> None:
    for who in (ada, await create_key("credits:read"), await create_key("billing:write", "operator")):
        answer = await make(client, who, user_id="ada")
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")


async def test_users_read_their_own_account_and_nobody_elses(
    client: httpx.AsyncClient, writer: Bearer, ada: Bearer, grace: Bearer
) -> None:
    assert (await read(client, ada, "ada")).json()["code"] == "account_not_found"
    account = await made(client, writer, user_id="ada")
    hers = await made(client, writer, user_id="grace")
    for id in ("ada", account["account_id"]):
        assert (await read(client, ada, id)).json() == account
        answer = await read(client, grace, id)
        assert (answer.status_code, answer.json()["code"]) == (404, "account_not_found")
    assert (await read(client, grace, "grace")).json() == hers


async def test_backends_read_any_account(client: httpx.AsyncClient, writer: Bearer, create_key: CreateKey) -> None:
    account = await made(client, writer, **GOOGLE)
    reader = await create_key("credits:read")
    for id in (account["account_id"], "google:user@example.com"):
        assert (await read(client, reader, id)).json() == account
        assert (await read(client, writer, id)).json() == account
        assert (await read(client, await create_key("billing:read"), id)).status_code == 403
    for id in (str(uuid4()), "nobody"):
        assert (await read(client, reader, id)).status_code == 404


async def test_a_user_whose_id_is_another_account_s_id_gets_their_own(
    client: httpx.AsyncClient, writer: Bearer, settings: Settings
) -> None:
    account = await made(client, writer, user_id="ada")
    rogue = await made(client, writer, user_id=account["account_id"])
    token = bearer(mint_development_token(settings, account["account_id"]))
    assert (await read(client, token, account["account_id"])).json() == rogue
    ambiguous = await read(client, writer, account["account_id"])
    assert (ambiguous.status_code, ambiguous.json()["code"]) == (409, "account_ambiguous")
    assert (await read(client, writer, "ada")).json() == account
    assert (await read(client, writer, rogue["account_id"])).json() == rogue


async def test_an_expired_grant_counts_no_more_before_it_is_written_off(
    client: httpx.AsyncClient, writer: Bearer, sessions: Sessions, ada: Bearer
) -> None:
    await made(client, writer, user_id="ada")
    async with transaction(sessions) as session:
        await session.execute(update(models.CreditGrant).values(expires_at=1_700_000_000))
        await session.execute(update(models.CreditAccount).values(expires_next=1_700_000_000))
    account = (await read(client, ada, "ada")).json()
    assert (account["available"], account["free_uses_remaining"]) == (0, 0)
    [grant] = (await client.get(f"{API}/credits/grants", headers=ada)).json()
    assert (grant["uses"], grant["remaining"]) == (3, 0)


async def test_an_operator_suspends_an_account_and_the_log_tells_of_it(
    client: httpx.AsyncClient, writer: Bearer, operator: Bearer, ada: Bearer, sessions: Sessions
) -> None:
    account = await made(client, writer, user_id="ada")
    path = f"{API}/accounts/{account['account_id']}"
    for who in (ada, writer):
        assert (await client.patch(path, json={"status": "suspended"}, headers=who)).status_code == 403
    for _ in range(2):
        answer = await client.patch(path, json={"status": "suspended"}, headers=operator)
        assert (answer.status_code, answer.json()) == (200, account | {"status": "suspended"})
    assert (await client.patch(f"{API}/accounts/ada", json={"status": "active"}, headers=operator)).json() == account
    for wrong in ({"status": "closed"}, {}, {"status": "active", "paid": 9}):
        assert (await client.patch(path, json=wrong, headers=operator)).status_code == 422
    missing = await client.patch(f"{API}/accounts/nobody", json={"status": "active"}, headers=operator)
    assert (missing.status_code, missing.json()["code"]) == (404, "account_not_found")
    async with sessions() as session:
        found = select(models.AuditRow).where(models.AuditRow.subject == account["account_id"])
        rows = (await session.scalars(found.order_by(models.AuditRow.id))).all()
    assert [(row.action, row.before, row.after) for row in rows] == [
        ("credit_account.suspended", {"status": "active"}, {"status": "suspended"}),
        ("credit_account.reactivated", {"status": "suspended"}, {"status": "active"}),
    ]


async def test_a_closed_account_stays_closed(
    client: httpx.AsyncClient, writer: Bearer, operator: Bearer, sessions: Sessions
) -> None:
    account = await made(client, writer, user_id="ada")
    async with transaction(sessions) as session:
        await session.execute(update(models.CreditAccount).values(status="closed"))
    answer = await client.patch(f"{API}/accounts/{account['account_id']}", json={"status": "active"}, headers=operator)
    assert (answer.status_code, answer.json()["code"]) == (409, "account_closed")


async def test_what_a_user_may_use_names_their_credits(client: httpx.AsyncClient, writer: Bearer, ada: Bearer) -> None:
    assert (await client.get(f"{API}/entitlements", headers=ada)).json()["credits"] is None
    await made(client, writer, user_id="ada")
    entitled = (await client.get(f"{API}/entitlements", headers=ada)).json()
    assert entitled["credits"] == {"available": 3, "free": 3, "paid": 0, "owed": 0}
    assert entitled["plan"] == "free"
