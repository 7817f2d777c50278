"""Customers over HTTP: made once, found, changed, exported, with their tax ids; and by whom."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from billing import ADA, Account
from serving import API, PROBLEM, Bearer, CreateKey, bearer, serving

from app.main import create_app
from app.models import ApiCall, Customer, UsageEvent
from app.services.identity import mint_development_token
from app.settings import Settings


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


@pytest.fixture
async def backend(create_key: CreateKey) -> Bearer:
    return await create_key("billing:read", "billing:write")


@pytest.fixture
async def operator(create_key: CreateKey) -> Bearer:
    return await create_key("operator")


@pytest.fixture
def buyer(settings: Settings) -> Bearer:
    return bearer(mint_development_token(settings, ADA.user_id))


FULL = {
    "user_id": "u-1",
    "email": "Grace@Example.com",
    "name": "Grace",
    "phone": "+49 30 123",
    "address": {"line1": "Weg 1", "city": "Berlin", "country": "DE"},
    "metadata": {"team": "blue"},
    "tax_ids": [{"type": "eu_vat", "value": "DE123456789"}],
}


async def create(client: httpx.AsyncClient, who: Bearer, **body: Any) -> dict[str, Any]:
    answer = await client.post(f"{API}/customers", json=body, headers=who)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_a_customer_is_made_at_stripe_with_all_that_is_said_of_it(
    client: httpx.AsyncClient, account: Account, backend: Bearer
) -> None:
    made = await create(client, backend, **FULL)
    [truth] = account.sandbox.rows("customer")
    assert made == {
        "id": truth["id"],
        "user_id": "u-1",
        "email": "Grace@Example.com",
        "name": "Grace",
        "metadata": {"user_id": "u-1", "team": "blue"},
        "default_payment_method": None,
        "created": truth["created"],
        "deleted": False,
        "erased_at": None,
    }
    assert (truth["phone"], truth["address"]["city"], truth["address"]["country"]) == ("+49 30 123", "Berlin", "DE")
    [tax_id] = account.sandbox.rows("tax_id")
    assert (tax_id["customer"], tax_id["value"]) == (made["id"], "DE123456789")
    assert (await client.get(f"{API}/customers/{made['id']}", headers=backend)).json() == made
    assert (await client.get(f"{API}/customers/u-1", headers=backend)).json() == made
    before = await account.state()
    await account.deliver_and_process(account.events())
    assert await account.state() == before
    [call] = await account.all(ApiCall)
    assert (call.user_id, call.method, call.status) == ("u-1", "POST", 201)


async def test_a_user_s_second_customer_is_the_first_one_unchanged(
    client: httpx.AsyncClient, account: Account, backend: Bearer
) -> None:
    made = await create(client, backend, user_id="u-1", name="Grace")
    again = await client.post(f"{API}/customers", json={"user_id": "u-1", "name": "Other"}, headers=backend)
    assert (again.status_code, again.json()) == (200, made)
    assert len(account.sandbox.rows("customer")) == 1


async def test_racing_requests_make_one_customer(client: httpx.AsyncClient, account: Account, backend: Bearer) -> None:
    answers = await asyncio.gather(
        *(client.post(f"{API}/customers", json={"user_id": "u-1"}, headers=backend) for _ in range(5))
    )
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(account.sandbox.rows("customer")) == 1


async def test_a_provider_and_an_id_there_are_one_user(client: httpx.AsyncClient, backend: Bearer) -> None:
    made = await create(client, backend, oauth_provider="github", external_id="12:34")
    assert made["user_id"] == "github:12:34"
    assert (await client.get(f"{API}/customers?user_id=github:12:34", headers=backend)).json() == [made]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({}, None),
        ({"oauth_provider": "github"}, None),
        ({"user_id": "u", "oauth_provider": "github", "external_id": "1"}, None),
        ({"user_id": "u", "external_id": "1"}, None),
        ({"oauth_provider": "git:hub", "external_id": "1"}, "oauth_provider"),
        ({"user_id": "u", "email": "nobody"}, "email"),
        ({"user_id": "u", "metadata": {"user_id": "other"}}, "metadata"),
        ({"user_id": "u", "metadata": {"k" * 41: "v"}}, "metadata"),
        ({"user_id": "u", "address": {"country": "Germany"}}, "address"),
        ({"user_id": "u", "tax_ids": [{"type": "eu_vat", "value": "1"}] * 6}, "tax_ids"),
        ({"user_id": "u", "payment_method": "pm_1"}, "payment_method"),
        ({"user_id": "u\0"}, "user_id"),
    ],
)
async def test_a_customer_that_makes_no_sense_is_not_made(
    client: httpx.AsyncClient, account: Account, backend: Bearer, wrong: dict[str, Any], param: str | None
) -> None:
    answer = await client.post(f"{API}/customers", json=wrong, headers=backend)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM), answer.text
    if param is not None:
        assert answer.json()["errors"][0]["param"].startswith(param)
    assert account.sandbox.rows("customer") == []


async def test_a_tax_id_stripe_refuses_is_the_caller_s_mistake(client: httpx.AsyncClient, backend: Bearer) -> None:
    body = {"user_id": "u-1", "tax_ids": [{"type": "eu_vat", "value": "12"}]}
    answer = await client.post(f"{API}/customers", json=body, headers=backend)
    assert (answer.status_code, answer.json()["errors"][0]["param"]) == (422, "value")


async def test_customers_are_listed_newest_first_page_by_page(
    client: httpx.AsyncClient, account: Account, backend: Bearer
) -> None:
    made = [(await create(client, backend, user_id=f"u-{number}"))["id"] for number in range(5)]
    seen: list[str] = []
    url = f"{API}/customers?limit=2"
    while url:
        page = await client.get(url, headers=backend)
        seen += [customer["id"] for customer in page.json()]
        url = page.links.get("next", {}).get("url", "")
    rows = {row.stripe_id: (row.created, row.stripe_id) for row in await account.all(Customer)}
    assert seen == sorted(made, key=lambda id: rows[id], reverse=True)
    unknown = await client.get(f"{API}/customers?starting_after=cus_no", headers=backend)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "customer_not_found")


async def test_customers_are_found_by_address_however_it_is_written(client: httpx.AsyncClient, backend: Bearer) -> None:
    made = await create(client, backend, **FULL)
    await create(client, backend, user_id="u-2", email="other@example.com")
    for address in ("Grace@Example.com", "grace@example.com", "GRACE@EXAMPLE.COM"):
        found = await client.get(f"{API}/customers", params={"email": address}, headers=backend)
        assert found.json() == [made]
    assert (await client.get(f"{API}/customers?email=grace@example.co", headers=backend)).json() == []


async def test_what_is_given_is_changed_and_the_rest_stays(
    client: httpx.AsyncClient, account: Account, backend: Bearer
) -> None:
    made = await create(client, backend, **FULL)
    url = f"{API}/customers/{made['id']}"
    changed = await client.patch(
        url, json={"name": "Hopper", "metadata": {"rank": "admiral", "team": None}}, headers=backend
    )
    assert changed.status_code == 200, changed.text
    assert changed.json() == made | {"name": "Hopper", "metadata": {"user_id": "u-1", "rank": "admiral"}}
    emptied = await client.patch(url, json={"email": None, "phone": None, "address": None}, headers=backend)
    assert emptied.json()["email"] is None
    [truth] = account.sandbox.rows("customer")
    assert (truth["email"], truth["phone"], truth["address"], truth["name"]) == (None, None, None, "Hopper")
    before = await account.state()
    await account.deliver_and_process(account.events())
    assert await account.state() == before


async def test_a_default_payment_method_must_be_the_customer_s(
    client: httpx.AsyncClient, account: Account, backend: Bearer
) -> None:
    made = await create(client, backend, user_id="u-1")
    url = f"{API}/customers/{made['id']}"
    card = await account.provider.attach_payment_method("pm_card_visa", customer=made["id"], idempotency_key="k")
    changed = await client.patch(url, json={"default_payment_method": card.object.id}, headers=backend)
    assert changed.json()["default_payment_method"] == card.object.id
    other = await client.patch(url, json={"default_payment_method": "pm_nobody"}, headers=backend)
    assert (other.status_code, other.json()["errors"][0]["param"]) == (404, "default_payment_method")
    none = await client.patch(url, json={"default_payment_method": None}, headers=backend)
    assert none.status_code == 422


async def test_a_change_with_a_key_is_made_once(client: httpx.AsyncClient, account: Account, backend: Bearer) -> None:
    made = await create(client, backend, user_id="u-1")
    keyed = backend | {"Idempotency-Key": "change-1"}
    first = await client.patch(f"{API}/customers/{made['id']}", json={"name": "Ada"}, headers=keyed)
    again = await client.patch(f"{API}/customers/{made['id']}", json={"name": "Ada"}, headers=keyed)
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    assert len(account.events("customer.updated")) == 1


async def test_users_see_and_change_themselves_alone(
    client: httpx.AsyncClient, account: Account, buyer: Bearer, grace: Bearer
) -> None:
    early = await client.get(f"{API}/customer", headers=buyer)
    assert (early.status_code, early.json()["code"]) == (404, "customer_not_found")
    await account.open_checkout()
    changed = await client.patch(f"{API}/customer", json={"email": "new@example.com"}, headers=buyer)
    assert (changed.json()["email"], changed.json()["name"]) == ("new@example.com", "Ada")
    assert (await client.get(f"{API}/customer", headers=buyer)).json() == changed.json()
    assert account.sandbox.rows("customer")[0]["email"] == "new@example.com"
    sly = await client.patch(f"{API}/customer", json={"metadata": {"user_id": "grace"}}, headers=buyer)
    assert sly.status_code == 422
    assert (await client.get(f"{API}/customer", headers=grace)).status_code == 404
    assert (await client.get(f"{API}/customer/export", headers=grace)).status_code == 404


async def test_customers_are_for_keys_with_the_right_scope(
    client: httpx.AsyncClient, buyer: Bearer, backend: Bearer, create_key: CreateKey, account: Account
) -> None:
    made = await create(client, backend, user_id="u-1")
    reader, charger = await create_key("billing:read"), await create_key("credits:write")
    one = f"{API}/customers/{made['id']}"
    reads = [("GET", f"{API}/customers"), ("GET", one), ("GET", f"{one}/tax-ids")]
    writes = [("POST", f"{API}/customers"), ("PATCH", one), ("POST", f"{one}/tax-ids")]
    operators = [("DELETE", one), ("GET", f"{one}/export")]
    for who, refused in (
        (buyer, reads + writes + operators),
        (charger, reads + writes + operators),
        (reader, writes + operators),
        (backend, operators),
    ):
        for method, url in refused:
            answer = await client.request(method, url, headers=who, json=None if method in {"GET", "DELETE"} else {})
            assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied"), (method, url)
    assert [row["id"] for row in account.sandbox.rows("customer")] == [made["id"]]


async def test_unknown_customers_are_not_found(client: httpx.AsyncClient, operator: Bearer) -> None:
    for method, path, body in (
        ("GET", "/customers/cus_no", None),
        ("PATCH", "/customers/cus_no", {"name": "x"}),
        ("DELETE", "/customers/cus_no", None),
        ("GET", "/customers/cus_no/export", None),
        ("GET", "/customers/cus_no/tax-ids", None),
        ("POST", "/customers/cus_no/tax-ids", {"type": "eu_vat", "value": "DE123456789"}),
        ("DELETE", "/customers/cus_no/tax-ids/txi_1", None),
    ):
        answer = await client.request(method, f"{API}{path}", headers=operator, json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "customer_not_found"), (method, path)


async def test_tax_ids_come_and_go(client: httpx.AsyncClient, backend: Bearer) -> None:
    made = await create(client, backend, user_id="u-1")
    url = f"{API}/customers/u-1/tax-ids"
    added = await client.post(url, json={"type": "eu_vat", "value": "DE123456789"}, headers=backend)
    assert added.status_code == 201, added.text
    assert added.json() == added.json() | {"type": "eu_vat", "value": "DE123456789", "country": "DE"}
    assert (await client.get(f"{API}/customers/{made['id']}/tax-ids", headers=backend)).json() == [added.json()]
    refused = await client.post(url, json={"type": "eu_vat", "value": "7"}, headers=backend)
    assert (refused.status_code, refused.json()["errors"][0]["param"]) == (422, "value")
    gone = await client.delete(f"{url}/{added.json()['id']}", headers=backend)
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await client.get(url, headers=backend)).json() == []
    assert (await client.delete(f"{url}/{added.json()['id']}", headers=backend)).status_code == 404


async def test_everything_held_is_exported(
    client: httpx.AsyncClient, account: Account, buyer: Bearer, operator: Bearer
) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    await client.post(f"{API}/subscription/cancel", headers=buyer)
    answer = await client.get(f"{API}/customers/{ADA.user_id}/export", headers=operator)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert "etag" not in answer.headers
    told = answer.json()
    assert [row["email"] for row in told["customers"]] == [ADA.email]
    assert [row["status"] for row in told["subscriptions"]] == ["active"]
    assert [row["last4"] for row in told["payment_methods"]] == ["4242"]
    assert [row["amount_paid"] for row in told["invoices"]] == [9900]
    assert [row["route"] for row in told["api_calls"]] == [f"{API}/subscription/cancel"]
    assert {row["type"] for row in told["outbox"]} >= {"subscription.activated", "payment.received"}
    assert any(row["action"] == "subscription.created" for row in told["audit_log"])
    assert {json.loads(row["payload"])["id"] for row in told["stripe_events"]} == {
        row["event_id"] for row in told["stripe_events"]
    }
    assert len(told["stripe_events"]) > 3
    own = (await client.get(f"{API}/customer/export", headers=buyer)).json()
    assert own | {"exported_at": 0} == told | {"exported_at": 0}


async def test_usage_of_a_customer_who_is_no_user_s_is_exported(
    client: httpx.AsyncClient, account: Account, operator: Bearer
) -> None:
    made = (await account.provider.create_customer(metadata={}, idempotency_key="k")).object.id
    await account.deliver_and_process(account.events())
    used = {"meter": "api_calls", "quantity": 1, "timestamp": 1, "period_start": 0, "status": "sent"}
    async with account.sessions.begin() as session:
        session.add(UsageEvent(id="use-1", subject=made, **used))
    told = (await client.get(f"{API}/customers/{made}/export", headers=operator)).json()
    assert [row["id"] for row in told["usage_events"]] == ["use-1"]


async def test_a_user_id_that_is_another_s_customer_id_opens_nothing(
    client: httpx.AsyncClient, account: Account, settings: Settings, backend: Bearer
) -> None:
    await account.open_checkout()
    [hers] = await account.all(Customer)
    sly = bearer(mint_development_token(settings, hers.stripe_id))
    for path in ("/customer", "/customer/export"):
        assert (await client.get(f"{API}{path}", headers=sly)).status_code == 404
    made = await create(client, backend, user_id=hers.stripe_id)
    told = (await client.get(f"{API}/customer/export", headers=sly)).json()
    assert [row["stripe_id"] for row in told["customers"]] == [made["id"]]
    found = await client.get(f"{API}/customers/{hers.stripe_id}", headers=backend)  # operators mean Stripe's
    assert found.json()["user_id"] == ADA.user_id


async def test_answers_about_tax_ids_are_emptied_with_the_customer(
    client: httpx.AsyncClient, account: Account, backend: Bearer, operator: Bearer
) -> None:
    nobody_s = (await account.provider.create_customer(metadata={}, idempotency_key="k")).object.id
    await account.deliver_and_process(account.events())
    user_s = (await create(client, backend, user_id="u-1"))["id"]
    added = {"type": "eu_vat", "value": "DE123456789"}
    for id in (nobody_s, user_s):
        keyed = backend | {"Idempotency-Key": f"tax-{id}"}
        assert (await client.post(f"{API}/customers/{id}/tax-ids", json=added, headers=keyed)).status_code == 201
        timeline = (await client.get(f"{API}/customers/{id}/timeline", headers=operator)).json()
        assert f"POST {API}/customers/{{id}}/tax-ids" in {entry["type"] for entry in timeline}
        assert (await client.delete(f"{API}/customers/{id}", headers=operator)).status_code == 200
        again = await client.post(f"{API}/customers/{id}/tax-ids", json=added, headers=keyed)
        assert again.json()["code"] == "answer_erased"


async def test_a_long_export_has_every_row_once(client: httpx.AsyncClient, account: Account, operator: Bearer) -> None:
    await account.open_checkout()
    async with account.sessions.begin() as session:
        session.add_all(
            ApiCall(user_id=ADA.user_id, actor="a", method="POST", route="/", status=200, request_id=str(number))
            for number in range(450)
        )
    told = (await client.get(f"{API}/customers/{ADA.user_id}/export", headers=operator)).json()
    assert sorted(int(row["request_id"]) for row in told["api_calls"]) == list(range(450))


async def test_a_customer_is_erased_over_http(
    client: httpx.AsyncClient, account: Account, buyer: Bearer, backend: Bearer, operator: Bearer
) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    keyed = backend | {"Idempotency-Key": "change-1"}
    about_her = f"{API}/customer?user_id={ADA.user_id}"
    assert (await client.patch(about_her, json={"name": "Countess"}, headers=keyed)).status_code == 200
    url = f"{API}/customers/{ADA.user_id}"
    refused = await client.delete(url, headers=operator)
    assert (refused.status_code, refused.json()["code"]) == (409, "has_live_subscription")
    once = operator | {"Idempotency-Key": "erase-1"}
    erased = await client.delete(f"{url}?cancel_subscriptions=true", headers=once)
    assert erased.status_code == 200, erased.text
    id, at = erased.json()["id"], erased.json()["erased_at"]
    assert erased.json() == {"id": id, "deleted": True, "erased_at": at}
    repeated = await client.delete(f"{url}?cancel_subscriptions=true", headers=once)
    assert (repeated.json(), repeated.headers["idempotent-replayed"]) == (erased.json(), "true")
    again = await client.delete(f"{API}/customers/{id}", headers=operator)
    assert (again.status_code, again.json()) == (200, erased.json())

    left = (await client.get(f"{API}/customers/{id}", headers=operator)).json()
    assert (left["email"], left["name"], left["metadata"], left["deleted"]) == (None, None, {}, True)
    assert left["erased_at"] == at
    assert (await client.get(url, headers=operator)).status_code == 404
    assert (await client.get(f"{API}/subscription", headers=buyer)).status_code == 404
    assert (await client.get(f"{API}/customers", headers=backend)).json() == []
    remembered = await client.patch(about_her, json={"name": "Countess"}, headers=keyed)
    assert (remembered.status_code, remembered.json()["code"]) == (404, "answer_erased")
    for method, path, body in (("PATCH", "", {"name": "x"}), ("POST", "/tax-ids", {"type": "eu_vat", "value": "DE1"})):
        answer = await client.request(method, f"{API}/customers/{id}{path}", headers=operator, json=body)
        assert (answer.status_code, answer.json()["code"]) == (409, "customer_deleted")
    entries = (await client.get(f"{API}/customers/{id}/timeline?limit=100", headers=operator)).json()
    told = {entry["type"]: entry["actor"] for entry in entries}
    assert told["customer.erase_requested"].startswith("key:")
    assert "customer.erased" in told
    assert "Countess" not in str(entries)
