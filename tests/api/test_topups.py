"""Automatic top-ups through HTTP: set, shown, removed; and from the last charge to the uses that were bought."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from billing import ADA, Account
from serving import API, PROBLEM, Bearer, CreateKey, bearer, serving
from sqlalchemy import update
from topping_up import TopUps

from app import models
from app.db import transaction
from app.main import create_app
from app.sandbox.resources import payment_intents
from app.services.identity import mint_development_token
from app.settings import Settings

NEVER: dict[str, Any] = {"breaker": "closed", "failures": 0, "failure_code": None, "due_at": None, "purchase_id": None}


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


@pytest.fixture
async def key(create_key: CreateKey) -> Bearer:
    return await create_key("credits:write")


@pytest.fixture
def user(settings: Settings) -> Bearer:
    return bearer(mint_development_token(settings, ADA.user_id))


@pytest.fixture
async def topups(account: Account) -> TopUps:
    """Ada pays by a good card, and has three uses."""
    topups = TopUps(account)
    await topups.open()
    return topups


async def call(
    client: httpx.AsyncClient, who: Bearer, method: str, body: dict[str, Any] | None = None, whose: str = ADA.user_id
) -> httpx.Response:
    return await client.request(method, f"{API}/accounts/{whose}/topup", headers=who, json=body)


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, PROBLEM), answer.text
    assert answer.json()["code"] == code


async def charge(client: httpx.AsyncClient, key: Bearer, number: int) -> int:
    headers = {**key, "Idempotency-Key": f"use-{number}"}
    answer = await client.post(f"{API}/charges", headers=headers, json={"user_id": ADA.user_id})
    assert answer.status_code == 201, answer.text
    left: int = answer.json()["balance_after"]
    return left


async def test_what_is_set_is_shown_changed_and_removed(
    client: httpx.AsyncClient, user: Bearer, topups: TopUps
) -> None:
    refused(await call(client, user, "GET"), 404, "topup_not_found")
    refused(await call(client, user, "DELETE"), 404, "topup_not_found")
    answer = await call(client, user, "PUT", {"pack": "starter", "threshold": 0})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"pack": "starter", "threshold": 0, **NEVER}
    await call(client, user, "PUT", {"pack": "studio", "threshold": 2})
    shown = await call(client, user, "GET")
    assert shown.json() == {"pack": "studio", "threshold": 2, **NEVER}
    assert (await call(client, user, "DELETE")).status_code == 204
    refused(await call(client, user, "GET"), 404, "topup_not_found")
    actors = {row.actor for row in await topups.account.all(models.AuditRow) if row.action.startswith("credits.topup")}
    assert actors == {f"user:{ADA.user_id}"}


async def test_from_the_last_charge_to_what_was_bought(client: httpx.AsyncClient, key: Bearer, topups: TopUps) -> None:
    answer = await call(client, key, "PUT", {"pack": "starter", "threshold": 1})
    assert answer.status_code == 200, answer.text
    assert await charge(client, key, 1) == 2
    await topups.run()
    assert topups.payments() == []
    assert await charge(client, key, 2) == 1
    assert (await call(client, key, "GET")).json()["due_at"] is not None
    await topups.run()
    await topups.tell()
    await topups.tell()
    await topups.run()
    granted = [row for row in await topups.account.all(models.CreditGrant) if row.purchase_id is not None]
    assert [(row.amount, row.remaining) for row in granted] == [(20, 20)]
    assert topups.payments() == ["succeeded"]
    assert [await charge(client, key, number) for number in range(3, 23)] == list(range(20, 0, -1))
    await topups.run()
    assert await topups.balance() == 21
    assert (await call(client, key, "GET")).json() == {"pack": "starter", "threshold": 1, **NEVER}


async def test_declines_are_shown_until_they_are_over(client: httpx.AsyncClient, user: Bearer, topups: TopUps) -> None:
    await topups.charge_to("pm_card_chargeCustomerFail")
    await call(client, user, "PUT", {"pack": "starter", "threshold": 3})
    for failures, breaker in ((1, "closed"), (2, "closed"), (3, "open")):
        await topups.run_later()
        shown = (await call(client, user, "GET")).json()
        assert (shown["failures"], shown["breaker"]) == (failures, breaker)
        assert (shown["failure_code"], shown["purchase_id"]) == ("generic_decline", None)
        assert (shown["due_at"] is None) == (breaker == "open")
    again = await call(client, user, "PUT", {"pack": "studio", "threshold": 3})
    assert (again.json()["breaker"], again.json()["due_at"]) == ("open", None)
    await topups.charge_to("pm_card_visa")
    await topups.worker().notice_new_methods()
    await topups.run()
    assert (await call(client, user, "GET")).json() == {"pack": "studio", "threshold": 3, **NEVER}


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"pack": "gone", "threshold": 1}, (404, "pack_not_found")),
        ({"pack": "starter", "threshold": 20}, (422, "threshold_too_high")),
        ({"pack": "starter", "threshold": -1}, (422, "invalid_request")),
        ({"pack": "starter"}, (422, "invalid_request")),
    ],
)
async def test_what_makes_no_sense_is_refused(
    client: httpx.AsyncClient, user: Bearer, topups: TopUps, body: dict[str, Any], refusal: tuple[int, str]
) -> None:
    refused(await call(client, user, "PUT", body), *refusal)
    assert await topups.found() is None


async def test_without_a_payment_method_none_is_set(client: httpx.AsyncClient, user: Bearer, account: Account) -> None:
    topups = TopUps(account)
    await topups.open(card=None)
    refused(await call(client, user, "PUT", {"pack": "starter", "threshold": 1}), 409, "no_payment_method")
    assert await topups.found() is None


async def test_a_card_that_was_kept_with_a_pack_is_enough(
    client: httpx.AsyncClient, user: Bearer, account: Account
) -> None:
    topups = TopUps(account)
    await topups.open(card=None)
    bought = (await client.post(f"{API}/purchases", headers=user, json={"save_payment_method": True})).json()
    paying = {"payment_method": "pm_card_visa", "return_url": "https://app.example.com/"}
    with topups.sandbox.changing():
        payment_intents.confirm(topups.sandbox, paying, bought["payment_id"])
    await topups.tell()
    [customer] = topups.sandbox.rows("customer")
    assert customer["invoice_settings"]["default_payment_method"] is None
    assert (await call(client, user, "PUT", {"pack": "starter", "threshold": 5})).status_code == 200
    await topups.spend(20)
    await topups.run()
    assert await topups.balance() == 23


async def test_a_closed_account_takes_none(client: httpx.AsyncClient, user: Bearer, topups: TopUps) -> None:
    async with transaction(topups.account.sessions) as session:
        await session.execute(update(models.CreditAccount).values(status="closed"))
    refused(await call(client, user, "PUT", {"pack": "starter", "threshold": 1}), 409, "account_closed")


METHODS = pytest.mark.parametrize(
    ("method", "body"), [("GET", None), ("PUT", {"pack": "starter", "threshold": 1}), ("DELETE", None)]
)


@METHODS
async def test_anothers_does_not_exist(
    client: httpx.AsyncClient, grace: Bearer, topups: TopUps, method: str, body: dict[str, Any] | None
) -> None:
    await topups.put()
    refused(await call(client, grace, method, body), 404, "account_not_found")
    await TopUps(topups.account, "grace").open()
    refused(await call(client, grace, method, body), 404, "account_not_found")
    assert (await topups.row()).pack == "starter"


@METHODS
async def test_service_keys_need_the_scope(
    client: httpx.AsyncClient, create_key: CreateKey, topups: TopUps, method: str, body: dict[str, Any] | None
) -> None:
    await topups.put()
    refused(await call(client, await create_key("billing:write"), method, body), 403, "permission_denied")
    reading = await call(client, await create_key("credits:read"), method, body)
    assert reading.status_code == (200 if method == "GET" else 403)
    key, account_id = await create_key("credits:write"), str((await topups.row()).account_id)
    refused(await call(client, key, method, body, whose="nobody"), 404, "account_not_found")
    assert (await call(client, key, method, body, whose=account_id)).is_success
