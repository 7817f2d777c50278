"""What credit checks and charges answer: what is left, the offer, the first answer again, and to whom."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from billing import Account
from charging import CHARGES, CHECK, GOOGLE, charge, check, checked, count, give, sample, set_status
from serving import API, PROBLEM, Bearer, CreateKey, bearer
from sqlalchemy import update
from subscribing import buy

from app import models
from app.db import Sessions, transaction
from app.main import openapi_document
from app.services.catalog import Catalog
from app.settings import Settings
from app.values import unix_now, utcnow

OFFER = {
    "purchase_price_minor": 500,
    "purchase_currency": "usd",
    "purchase_uses": 20,
    "purchase_pack": "starter",
}


@pytest.fixture
async def key(create_key: CreateKey) -> Bearer:
    return await create_key("credits:write")


@pytest.fixture
async def reader(create_key: CreateKey) -> Bearer:
    return await create_key("credits:read")


async def test_somebody_new_has_the_free_uses_and_asking_writes_nothing(
    client: httpx.AsyncClient, reader: Bearer, sessions: Sessions
) -> None:
    context = {"agent_id": "agent-1", "channel_id": None, "request_id": "req-1"}
    assert await checked(client, reader, **GOOGLE, context=context, user_role="observer") == {
        "has_credit": True,
        "credits_remaining": 0,
        "free_uses_remaining": 3,
        "total_uses": 0,
        "plan_name": "free",
        "reason": None,
        "purchase_required": False,
        **dict.fromkeys(OFFER),
        "held": 0,
        "owed": 0,
        "account_id": None,
    }
    more = await checked(client, reader, **GOOGLE, quantity=4)
    assert (more["has_credit"], more["purchase_required"]) == (False, True)
    assert await count(sessions, models.CreditAccount) == 0


async def test_a_charge_is_answered_as_it_was_made(client: httpx.AsyncClient, key: Bearer) -> None:
    body = {
        **GOOGLE,
        "amount_minor": 100,
        "currency": "USD",
        "description": "Token usage",
        "metadata": {"message_id": "msg-123", "agent_id": None},
    }
    answer = await charge(client, key, "wish-1", **body)
    made = answer.json()
    assert answer.status_code == 201
    assert made == {
        "charge_id": made["charge_id"],
        "account_id": made["account_id"],
        "quantity": 1,
        "status": "captured",
        "captured": 1,
        "amount_minor": 100,
        "currency": "usd",
        "balance_after": 2,
        "description": "Token usage",
        "metadata": {"message_id": "msg-123"},
        "expires_at": None,
        "created_at": made["created_at"],
    }
    found = await checked(client, key, **GOOGLE)
    assert (found["free_uses_remaining"], found["total_uses"]) == (2, 1)
    assert found["account_id"] == made["account_id"]


async def test_a_hold_is_a_charge_that_waits(client: httpx.AsyncClient, key: Bearer) -> None:
    answer = await charge(client, key, "wish-1", **GOOGLE, quantity=2, hold=True, expires_in=60)
    held = answer.json()
    assert (answer.status_code, held["status"], held["captured"], held["balance_after"]) == (201, "held", 0, 1)
    assert held["expires_at"] == held["created_at"] + 60
    found = await checked(client, key, **GOOGLE)
    assert (found["held"], found["free_uses_remaining"], found["total_uses"]) == (2, 1, 0)


async def test_without_uses_the_offer_is_told_and_after_a_purchase_the_same_request_succeeds(
    client: httpx.AsyncClient, key: Bearer, sessions: Sessions, catalog: Catalog
) -> None:
    for number in range(3):
        assert (await charge(client, key, f"free-{number}")).status_code == 201
    refused = await charge(client, key, "wish-1")
    problem = refused.json()
    assert (refused.status_code, refused.headers["content-type"]) == (402, PROBLEM)
    assert (problem["code"], problem["retryable"], problem["status"]) == ("insufficient_credits", True, 402)
    found = await checked(client, key, **GOOGLE)
    assert found.items() <= problem.items()
    assert found | OFFER == found
    assert (found["has_credit"], found["purchase_required"], found["total_uses"]) == (False, True, 3)
    assert found["reason"]
    schema = openapi_document()["components"]["schemas"]["InsufficientCredits"]
    assert problem.keys() <= schema["properties"].keys()

    await give(sessions, catalog, 20)
    bought = await charge(client, key, "wish-1")
    assert (bought.status_code, bought.json()["balance_after"]) == (201, 19)
    assert "idempotent-replayed" not in bought.headers
    found = await checked(client, key, **GOOGLE)
    assert (found["has_credit"], found["credits_remaining"], found["purchase_uses"]) == (True, 19, None)


async def test_more_than_there_is_is_refused_whole(client: httpx.AsyncClient, key: Bearer) -> None:
    assert (await charge(client, key, "wish-1", **GOOGLE, quantity=4)).status_code == 402
    assert (await checked(client, key, **GOOGLE))["free_uses_remaining"] == 3


async def test_what_is_owed_is_said_and_blocks(client: httpx.AsyncClient, key: Bearer, sessions: Sessions) -> None:
    await charge(client, key, "wish-1")
    async with transaction(sessions) as session:
        await session.execute(update(models.CreditAccount).values(free=0, hand=0, owed=5))
    found = await checked(client, key, **GOOGLE)
    assert (found["has_credit"], found["purchase_required"], found["owed"]) == (False, True, 5)
    assert "owed" in found["reason"]
    assert (await charge(client, key, "wish-2")).json()["owed"] == 5


async def test_a_suspended_account_may_not_spend_and_needs_no_offer(
    client: httpx.AsyncClient, key: Bearer, sessions: Sessions
) -> None:
    await charge(client, key, "wish-1")
    await set_status(sessions, "suspended")
    refused = await charge(client, key, "wish-2")
    assert (refused.status_code, refused.json()["code"]) == (403, "account_suspended")
    found = await checked(client, key, **GOOGLE)
    assert (found["has_credit"], found["purchase_required"], found["purchase_pack"]) == (False, False, None)
    assert "suspended" in found["reason"]


async def test_the_plan_is_that_of_the_subscription(
    client: httpx.AsyncClient, account: Account, sessions: Sessions, key: Bearer, ada: Bearer
) -> None:
    assert (await checked(client, ada))["plan_name"] == "free"
    await buy(client, account, ada, "pro")
    [customer] = account.sandbox.rows("customer")
    for who, body in ((ada, {}), (key, {"user_id": "ada"}), (key, {"customer": customer["id"]})):
        assert (await checked(client, who, **body))["plan_name"] == "pro"
    assert (await checked(client, key, **GOOGLE))["plan_name"] == "free"
    for _ in range(3):
        await charge(client, key, uuid4().hex, user_id="ada")
    assert (await charge(client, key, "wish-1", user_id="ada")).json()["plan_name"] == "pro"
    # As everywhere, it is what the subscription's status grants.
    async with transaction(sessions) as session:
        await session.execute(update(models.Subscription).values(status="unpaid"))
    assert (await checked(client, ada))["plan_name"] == "free"
    held = (await client.get(f"{API}/entitlements", headers=ada)).json()
    assert (held["plan"], held["status"]) == ("free", "unpaid")


async def test_a_repeated_charge_is_given_the_first_answer(
    client: httpx.AsyncClient, key: Bearer, create_key: CreateKey
) -> None:
    first = await charge(client, key, "wish-1")
    counted = await sample(client, "billing_idempotent_replays_total")
    charged = await sample(client, 'billing_charges_total{success="true"}')
    again = [
        await charge(client, key, "wish-1"),
        await charge(client, key, '"wish-1"'),
        await charge(client, key, None, **GOOGLE, idempotency_key="wish-1"),
        await charge(client, key, "wish-1", **GOOGLE, idempotency_key="wish-1"),
        await charge(client, await create_key("credits:write"), "wish-1"),
    ]
    for answer in again:
        assert (answer.status_code, answer.json()) == (201, first.json())
        assert answer.headers["idempotent-replayed"] == "true"
    assert (await checked(client, key, **GOOGLE))["total_uses"] == 1
    assert await sample(client, "billing_idempotent_replays_total") == counted + len(again)
    assert await sample(client, 'billing_charges_total{success="true"}') == charged


@pytest.mark.parametrize(
    "other", [{"quantity": 2}, {"external_id": "other"}, {"hold": True}, {"amount_minor": 1, "currency": "usd"}]
)
async def test_the_same_key_with_another_charge_is_refused(
    client: httpx.AsyncClient, key: Bearer, other: dict[str, Any]
) -> None:
    await charge(client, key, "wish-1")
    refused = await charge(client, key, "wish-1", **GOOGLE | other)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ([], {}, "missing"),
        (["a"], {"idempotency_key": "b"}, "idempotency_keys_differ"),
        (["a", "a"], {}, "invalid_idempotency_key"),
        (["x" * 256], {}, "invalid_idempotency_key"),
        (["a b"], {}, "invalid_idempotency_key"),
        (["\u00fc"], {}, "invalid_idempotency_key"),
        ([], {"idempotency_key": "x" * 256}, "invalid_request"),
        ([], {"idempotency_key": "a b"}, "invalid_request"),
        ([], {"idempotency_key": ""}, "invalid_request"),
    ],
)
async def test_a_charge_needs_one_plain_key(
    client: httpx.AsyncClient, key: Bearer, headers: list[str], body: dict[str, str], code: str
) -> None:
    given = [*key.items(), *(("Idempotency-Key", text.encode()) for text in headers)]
    refused = await client.post(CHARGES, json=GOOGLE | body, headers=given)  # type: ignore[arg-type]  # str and bytes
    assert (refused.status_code, refused.json()["code"]) == (422, code)
    assert (await checked(client, key, **GOOGLE))["free_uses_remaining"] == 3


async def test_users_ask_about_themselves_alone(client: httpx.AsyncClient, ada: Bearer, key: Bearer) -> None:
    await charge(client, key, "wish-1", user_id="ada")
    for body in ({}, {"user_id": "ada"}):
        assert (await checked(client, ada, **body))["free_uses_remaining"] == 2
    assert (await client.post(CHECK, headers=ada)).json()["free_uses_remaining"] == 2
    for other in ({"user_id": "grace"}, GOOGLE, {"customer": "cus_none"}):
        refused = await check(client, ada, **other)
        assert (refused.status_code, refused.json()["code"]) == (404, "user_not_found")


async def test_users_charge_nobody(client: httpx.AsyncClient, ada: Bearer) -> None:
    for body in ({"user_id": "ada"}, {"nonsense": 1}):
        assert (await charge(client, ada, "wish-1", **body)).status_code == 403


async def test_a_key_needs_its_scope_and_must_say_whom_it_means(
    client: httpx.AsyncClient, create_key: CreateKey, reader: Bearer
) -> None:
    other = await create_key("billing:read", "billing:write", "usage:write", "operator")
    assert (await check(client, other, **GOOGLE)).status_code == 403
    for who in (other, reader):
        refused = await charge(client, who, "wish-1")
        assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    refused = await check(client, reader)
    assert (refused.status_code, refused.json()["errors"][0]["param"]) == (422, "user_id")
    refused = await check(client, reader, customer="cus_none")
    assert (refused.status_code, refused.json()["code"]) == (404, "customer_not_found")


async def test_a_key_opens_nothing_from_its_revocation_on(
    client: httpx.AsyncClient, key: Bearer, sessions: Sessions
) -> None:
    assert (await check(client, key, **GOOGLE)).status_code == 200
    assert (await charge(client, key, "wish-1")).status_code == 201
    async with transaction(sessions) as session:
        await session.execute(update(models.ApiKey).values(revoked_at=utcnow()))
    for answer in (await check(client, key, **GOOGLE), await charge(client, key, "wish-2")):
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    async with transaction(sessions) as session:
        await session.execute(update(models.ApiKey).values(revoked_at=None, expires_at=utcnow()))
    assert (await check(client, key, **GOOGLE)).status_code == 401


async def test_callers_who_cannot_be_verified_are_turned_away(client: httpx.AsyncClient, settings: Settings) -> None:
    assert settings.jwt_secret
    claims = {"sub": "ada", "iss": settings.jwt_issuer, "aud": settings.jwt_audience, "exp": unix_now() - 3600}
    expired = bearer(jwt.encode(claims, settings.jwt_secret.get_secret_value(), algorithm="HS256"))
    for headers, code in (
        ({}, "unauthenticated"),
        ({"Authorization": "Basic YTpi"}, "invalid_token"),
        (bearer("nonsense"), "invalid_token"),
        (expired, "token_expired"),
        (bearer("bk_nonsense"), "invalid_key"),
        (bearer("bk_000000000000000000000000000iGMvM2"), "invalid_key"),  # its checksum is right
    ):
        for path in (CHECK, CHARGES):
            refused = await client.post(path, json={"unknown": 1}, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (401, code)
            assert refused.headers["content-type"] == PROBLEM


async def test_of_many_charges_at_once_as_many_succeed_as_there_are_uses(
    client: httpx.AsyncClient, key: Bearer, reader: Bearer, sessions: Sessions, catalog: Catalog
) -> None:
    await give(sessions, catalog, 17)
    charging = [charge(client, key, f"wish-{number // 2}") for number in range(100)]
    answers = await asyncio.gather(*charging, *(check(client, reader, **GOOGLE) for _ in range(100)))
    charged, looked = answers[:100], answers[100:]
    made = {answer.json()["charge_id"] for answer in charged if answer.status_code == 201}
    assert len(made) == 20
    assert {answer.status_code for answer in charged} == {201, 402}
    assert sum("idempotent-replayed" in answer.headers for answer in charged) == 20
    for answer in looked:
        found = answer.json()
        assert found["credits_remaining"] + found["free_uses_remaining"] + found["total_uses"] == 20
    found = await checked(client, reader, **GOOGLE)
    assert (found["total_uses"], found["has_credit"]) == (20, False)


async def test_many_accounts_at_once_are_each_answered_their_own(client: httpx.AsyncClient, key: Bearer) -> None:
    people = [{"user_id": f"user-{number}"} for number in range(40)]
    spent = [
        charge(client, key, f"wish-{number}-{turn}", **person)
        for number, person in enumerate(people)
        for turn in range(number % 4)
    ]
    assert {answer.status_code for answer in await asyncio.gather(*spent)} == {201}
    found = await asyncio.gather(*(checked(client, key, **person) for person in people))
    assert [answer["free_uses_remaining"] for answer in found] == [3 - number % 4 for number in range(40)]
