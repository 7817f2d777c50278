"""Operators keep prices at Stripe; money is exact in every currency, and what one costs never changes."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
from billing import Account
from serving import API, PROBLEM, Bearer, CreateKey, serving

from app import models
from app.main import create_app
from app.settings import Settings


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


@pytest.fixture
async def operator(create_key: CreateKey) -> Bearer:
    return await create_key("operator")


async def make(client: httpx.AsyncClient, operator: Bearer, **fields: object) -> dict[str, Any]:
    body = {"product": "billhook_pro", "currency": "usd", "amount_minor": 1900, **fields}
    answer = await client.post(f"{API}/prices", json=body, headers=operator)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_a_price_is_made_read_renamed_and_archived(
    client: httpx.AsyncClient, operator: Bearer, account: Account
) -> None:
    made = await make(
        client,
        operator,
        interval="month",
        interval_count=3,
        nickname="Friends",
        lookup_key="friends",
        metadata={"since": "2026"},
    )
    assert made == {
        "id": account.sandbox.rows("price")[-1]["id"],
        "product": "billhook_pro",
        "plan": None,
        "active": True,
        "currency": "usd",
        "amount": 19.0,
        "amount_minor": 1900,
        "interval": "month",
        "interval_count": 3,
        "usage_type": "licensed",
        "meter": None,
        "nickname": "Friends",
        "lookup_key": "friends",
        "metadata": {"since": "2026"},
        "created": account.sandbox.rows("price")[-1]["created"],
    }
    url = f"{API}/prices/{made['id']}"
    assert (await client.get(url, headers=operator)).json() == made
    changed = await client.patch(
        url, json={"nickname": "Family", "lookup_key": "", "metadata": {"since": "", "who": "us"}}, headers=operator
    )
    assert changed.status_code == 200, changed.text
    assert changed.json() == made | {"nickname": "Family", "lookup_key": None, "metadata": {"who": "us"}}
    archived = await client.delete(url, headers=operator)
    assert archived.json() == changed.json() | {"active": False}
    await account.deliver_and_process(account.events())
    assert (await client.get(url, headers=operator)).json() == archived.json()
    assert (await client.patch(url, json={"active": True}, headers=operator)).json()["active"] is True


@pytest.mark.parametrize(
    ("currency", "minor", "decimal"),
    [("usd", 1999, "19.99"), ("jpy", 2900, "2900"), ("kwd", 12340, "12.34"), ("kwd", 99999990, "99999.99")],
)
async def test_amounts_are_exact_in_every_currency(
    *, client: httpx.AsyncClient, operator: Bearer, account: Account, currency: str, minor: int, decimal: str
) -> None:
    made = await make(client, operator, currency=currency, amount_minor=minor)
    answer = await client.get(f"{API}/prices/{made['id']}", headers=operator)
    assert f'"amount":{float(Decimal(decimal))},' in answer.text.replace(" ", "")
    assert (made["amount_minor"], made["currency"], made["interval"]) == (minor, currency, None)
    assert account.sandbox.rows("price")[-1]["unit_amount"] == minor


async def test_a_price_may_be_metered(client: httpx.AsyncClient, operator: Bearer, account: Account) -> None:
    meter = account.sandbox.rows("billing.meter")[0]["id"]
    made = await make(client, operator, interval="month", meter=meter)
    assert (made["usage_type"], made["meter"]) == ("metered", meter)


async def test_a_lookup_key_moves_only_when_told_to(
    client: httpx.AsyncClient, operator: Bearer, account: Account
) -> None:
    old = await make(client, operator, interval="month", lookup_key="friends")
    body = {"product": "billhook_pro", "currency": "usd", "amount_minor": 2100, "lookup_key": "friends"}
    taken = await client.post(f"{API}/prices", json=body, headers=operator)
    assert (taken.status_code, taken.json()["errors"][0]["param"]) == (422, "lookup_key")

    new = await make(client, operator, interval="month", lookup_key="friends", transfer_lookup_key=True)
    assert new["lookup_key"] == "friends"
    assert (await client.get(f"{API}/prices/{old['id']}", headers=operator)).json()["lookup_key"] is None
    back = await client.patch(
        f"{API}/prices/{old['id']}", json={"lookup_key": "friends", "transfer_lookup_key": True}, headers=operator
    )
    assert back.json()["lookup_key"] == "friends"
    held = (await client.get(f"{API}/prices?lookup_key=friends", headers=operator)).json()
    assert [price["id"] for price in held] == [old["id"]]
    await account.deliver_and_process(account.events())
    rows = {row.stripe_id: row.lookup_key for row in await account.all(models.Price)}
    assert (rows[old["id"]], rows[new["id"]]) == ("friends", None)


async def test_prices_are_listed_filtered_and_paged(client: httpx.AsyncClient, operator: Bearer) -> None:
    made = [(await make(client, operator, amount_minor=amount))["id"] for amount in (100, 200, 300)]
    await client.delete(f"{API}/prices/{made[0]}", headers=operator)

    async def ids(query: str) -> list[str]:
        answer = await client.get(f"{API}/prices?{query}", headers=operator)
        assert answer.status_code == 200, answer.text
        return [price["id"] for price in answer.json()]

    everything = await ids("limit=100")
    assert len(everything) == 8
    assert await ids("active=false") == [made[0]]
    assert set(await ids("product=billhook_pro&active=true")) >= {made[1], made[2]}
    assert len(await ids("product=billhook_pro")) == 4
    assert await ids("product=prod_nope") == []
    assert await ids(f"limit=3&starting_after={everything[2]}") == everything[3:6]


@pytest.mark.parametrize("field", ["amount", "amount_minor", "currency", "interval", "product", "meter"])
async def test_what_a_price_costs_can_t_be_changed_and_what_to_do_is_said(
    client: httpx.AsyncClient, operator: Bearer, field: str
) -> None:
    made = await make(client, operator)
    url = f"{API}/prices/{made['id']}"
    answer = await client.patch(url, json={field: made.get(field), "nickname": "x"}, headers=operator)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    [error] = answer.json()["errors"]
    assert error["code"] == "price_immutable"
    assert "transfer_lookup_key" in error["message"]
    assert (await client.get(url, headers=operator)).json() == made


@pytest.mark.parametrize(
    ("method", "path", "change", "status", "code"),
    [
        ("POST", "", {"amount_minor": -1}, 422, "invalid_request"),
        ("POST", "", {"amount_minor": 19.5}, 422, "invalid_request"),
        ("POST", "", {"amount_minor": 100_000_000}, 422, "invalid_request"),
        ("POST", "", {"currency": "USD"}, 422, "invalid_request"),
        ("POST", "", {"currency": "kwd", "amount_minor": 1001}, 422, "invalid_request"),
        ("POST", "", {"currency": "isk", "amount_minor": 1010}, 422, "invalid_request"),
        ("POST", "", {"interval_count": 2}, 422, "invalid_request"),
        ("POST", "", {"meter": "mtr_1"}, 422, "invalid_request"),
        ("POST", "", {"meter": "mtr_1", "interval": "month"}, 404, "not_found"),
        ("POST", "", {"interval": "fortnight"}, 422, "invalid_request"),
        ("POST", "", {"product": "prod_nope"}, 404, "product_not_found"),
        ("PATCH", "/price_nope", {"active": False}, 404, "price_not_found"),
        ("DELETE", "/price_nope", None, 404, "price_not_found"),
        ("GET", "/price_nope", None, 404, "price_not_found"),
        ("GET", "?starting_after=price_nope", None, 404, "price_not_found"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    *,
    client: httpx.AsyncClient,
    operator: Bearer,
    method: str,
    path: str,
    change: dict[str, Any],
    status: int,
    code: str,
) -> None:
    body = (
        {"product": "billhook_pro", "currency": "usd", "amount_minor": 1900, **change} if method == "POST" else change
    )
    answer = await client.request(method, f"{API}/prices{path}", json=body, headers=operator)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    assert answer.json()["code"] == code


async def test_an_update_that_changes_nothing_is_refused(client: httpx.AsyncClient, operator: Bearer) -> None:
    made = await make(client, operator)
    url = f"{API}/prices/{made['id']}"
    answer = await client.patch(url, json={"transfer_lookup_key": True}, headers=operator)
    assert answer.status_code == 422


async def test_a_repeated_request_makes_one_price(
    client: httpx.AsyncClient, operator: Bearer, account: Account
) -> None:
    before = len(account.sandbox.rows("price"))
    twice = [await make(client, operator | {"Idempotency-Key": "once"}) for _ in range(2)]
    assert twice[0] == twice[1]
    assert len(account.sandbox.rows("price")) == before + 1


async def test_a_product_s_default_price_is_not_archived(
    client: httpx.AsyncClient, operator: Bearer, account: Account
) -> None:
    made = await make(client, operator)
    await account.provider.update_product(made["product"], default_price=made["id"])
    url = f"{API}/prices/{made['id']}"
    for answer in (
        await client.delete(url, headers=operator),
        await client.patch(url, json={"active": False}, headers=operator),
    ):
        assert answer.status_code == 409, answer.text
        assert "default price" in answer.json()["detail"]
    assert (await client.get(url, headers=operator)).json()["active"] is True
