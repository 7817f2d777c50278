"""The customer's timeline, and the calls of the API it tells of."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from billing import ADA, Account
from serving import API, Bearer, CreateKey, bearer, serving
from sqlalchemy import text

from app.main import create_app
from app.models import ApiCall, AuditRow, Customer, OutboxMessage, StripeEvent
from app.services.identity import mint_development_token
from app.settings import Settings


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


@pytest.fixture
def buyer(settings: Settings) -> Bearer:
    return bearer(mint_development_token(settings, ADA.user_id))


@pytest.fixture
async def operator(create_key: CreateKey) -> Bearer:
    return await create_key("operator")


async def pages(client: httpx.AsyncClient, operator: Bearer, id: str, limit: int) -> list[list[dict[str, Any]]]:
    found, url = [], f"{API}/customers/{id}/timeline?limit={limit}"
    while url:
        answer = await client.get(url, headers=operator)
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
        url = answer.links["next"]["url"] if "next" in answer.links else ""
    return found


async def whole(client: httpx.AsyncClient, operator: Bearer, id: str, limit: int = 100) -> list[dict[str, Any]]:
    return [entry for page in await pages(client, operator, id, limit) for entry in page]


async def test_a_purchase_and_its_cancellation_are_told_in_one_list(
    client: httpx.AsyncClient, account: Account, buyer: Bearer, operator: Bearer
) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    assert (await client.post(f"{API}/subscription/cancel", headers=buyer)).status_code == 200
    entries = await whole(client, operator, ADA.user_id)
    told = {(entry["kind"], entry["type"], entry["actor"]) for entry in entries}
    assert told >= {
        ("event", "invoice.paid", "stripe"),
        ("change", "customer.created", "user:demo-1"),
        ("change", "subscription.created", "stripe"),
        ("change", "subscription.updated", "user:demo-1"),
        ("message", "subscription.activated", "system"),
        ("message", "payment.received", "system"),
        ("call", f"POST {API}/subscription/cancel", "user:demo-1"),
    }
    times = [entry["at"] for entry in entries]
    assert times == sorted(times, reverse=True)
    [call] = [entry for entry in entries if entry["kind"] == "call"]
    assert call["detail"]["status"] == 200
    [customer] = await account.all(Customer)
    assert await whole(client, operator, customer.stripe_id) == entries
    assert "ada@example.com" not in str(entries)


async def test_turning_the_pages_shows_everything_once_in_the_same_order(
    client: httpx.AsyncClient, account: Account, operator: Bearer
) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    everything = await whole(client, operator, ADA.user_id)
    assert len({entry["id"] for entry in everything}) == len(everything)
    rows = [
        *(row for row in await account.all(StripeEvent) if row.key.startswith("cus_")),
        *(row for row in await account.all(AuditRow) if row.customer_id),
        *await account.all(OutboxMessage),
    ]
    assert len(everything) == len(rows)
    for limit in (1, 2, 3, 7):
        turned = await pages(client, operator, ADA.user_id, limit)
        assert [entry for page in turned for entry in page] == everything
        assert all(len(page) == limit for page in turned[:-1])


async def add_customer(account: Account, stripe_id: str, user_id: str | None = "zoe", *, deleted: bool = False) -> None:
    async with account.sessions.begin() as session:
        session.add(
            Customer(stripe_id=stripe_id, user_id=user_id, livemode=False, created=1, synced_at=1, deleted=deleted)
        )


def an_event(name: str, key: str, at: datetime) -> StripeEvent:
    return StripeEvent(
        event_id=name, type="invoice.paid", key=key, created=1, livemode=False, payload="{}", received_at=at
    )


def a_call(name: str, at: datetime) -> ApiCall:
    return ApiCall(user_id="zoe", actor="user:zoe", method="POST", route="/x", status=200, request_id=name, at=at)


async def test_rows_that_got_their_times_and_ids_in_different_orders_are_neither_skipped_nor_repeated(
    client: httpx.AsyncClient, account: Account, operator: Bearer
) -> None:
    """As with transactions that began in one order and ended in another."""
    await add_customer(account, "cus_zoe")
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    seconds = (5, 3, 9, 1, 7, 7, 2, 8)
    async with account.sessions.begin() as session:
        for number, second in enumerate(seconds):
            session.add(an_event(f"evt_{number}", "cus_zoe", noon + timedelta(seconds=second)))
            session.add(a_call(f"req_{number}", noon + timedelta(seconds=10 - second)))
    everything = await whole(client, operator, "zoe")
    assert len({entry["id"] for entry in everything}) == 2 * len(seconds)
    for limit in (1, 3):
        assert await whole(client, operator, "zoe", limit) == everything


async def test_what_comes_while_pages_are_turned_disturbs_nobody(
    client: httpx.AsyncClient, account: Account, operator: Bearer
) -> None:
    await add_customer(account, "cus_zoe")
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    async with account.sessions.begin() as session:
        session.add_all(an_event(f"evt_{n}", "cus_zoe", noon + timedelta(seconds=n)) for n in range(4))
    before = await whole(client, operator, "zoe")
    first = await client.get(f"{API}/customers/zoe/timeline?limit=2", headers=operator)
    async with account.sessions.begin() as session:
        session.add(an_event("evt_new", "cus_zoe", noon + timedelta(hours=1)))
        session.add(a_call("req_new", noon + timedelta(hours=1)))
    second = await client.get(first.links["next"]["url"], headers=operator)
    assert first.json() + second.json() == before
    assert "next" not in second.links


async def test_a_users_former_customers_belong_to_their_timeline(
    client: httpx.AsyncClient, account: Account, operator: Bearer
) -> None:
    await add_customer(account, "cus_former", deleted=True)
    await add_customer(account, "cus_zoe")
    await add_customer(account, "cus_else", None)
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    async with account.sessions.begin() as session:
        for number, key in enumerate(("cus_former", "cus_else", "cus_zoe", "cus_former")):
            session.add(an_event(f"evt_{number}", key, noon + timedelta(seconds=number)))

    async def events(id: str) -> list[str]:
        return [entry["subject"] for entry in await whole(client, operator, id, limit=2)]

    assert await events("zoe") == ["evt_3", "evt_2", "evt_0"]
    assert await events("cus_former") == ["evt_3", "evt_0"]
    assert await events("cus_else") == ["evt_1"]


async def test_nobody_has_no_timeline_and_a_made_up_place_is_none(
    client: httpx.AsyncClient, account: Account, operator: Bearer
) -> None:
    unknown = await client.get(f"{API}/customers/cus_never/timeline", headers=operator)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "customer_not_found")
    await add_customer(account, "cus_zoe")
    for wrong in ("event:1", "1-2-3", "1-2-3-4-5", "1-2-3-x", f"1-2-3-{2**63}", "1-2-3-\u0664", "1-2-3-4\n"):
        answer = await client.get(f"{API}/customers/zoe/timeline", params={"starting_after": wrong}, headers=operator)
        assert answer.status_code == 422, wrong
    right = await client.get(f"{API}/customers/zoe/timeline?starting_after=1-2-3-{2**63 - 1}", headers=operator)
    assert (right.status_code, right.json()) == (200, [])


async def test_calls_that_want_a_change_are_written_down_with_their_answer(
    client: httpx.AsyncClient, account: Account, buyer: Bearer, create_key: CreateKey
) -> None:
    backend = await create_key("billing:write", "billing:read")
    await client.post(f"{API}/subscription/cancel", headers=buyer | {"X-Request-ID": "req-1"})
    again = {"Idempotency-Key": "k1"}
    for _ in range(2):
        await client.post(f"{API}/subscription/resume?user_id=demo-1", headers=backend | again)
    await client.post(f"{API}/portal", json={"return_url": "nowhere"}, headers=buyer)
    calls = await account.all(ApiCall)
    assert [(call.user_id, call.method, call.route.removeprefix(API), call.status) for call in calls] == [
        ("demo-1", "POST", "/subscription/cancel", 404),
        ("demo-1", "POST", "/subscription/resume", 404),
        ("demo-1", "POST", "/subscription/resume", 404),
        ("demo-1", "POST", "/portal", 422),
    ]
    assert [call.actor.partition(":")[0] for call in calls] == ["user", "key", "key", "user"]
    assert calls[0].request_id == "req-1"


async def test_calls_that_want_nothing_changed_or_name_nobody_are_not_written_down(
    client: httpx.AsyncClient, account: Account, buyer: Bearer, create_key: CreateKey
) -> None:
    await client.get(f"{API}/subscription", headers=buyer)
    await client.post(f"{API}/entitlements/check", json={"feature": "sso"}, headers=buyer)
    await client.post(f"{API}/subscription/cancel")
    await client.post(f"{API}/subscription/cancel?user_id=grace", headers=buyer)
    await client.post(f"{API}/subscription/cancel", headers=await create_key("billing:write"))
    await client.post(f"{API}/subscription/cancel?user_id=demo-1", headers=await create_key("billing:read"))
    assert await account.all(ApiCall) == []


async def test_a_call_that_can_not_be_written_down_is_answered_all_the_same(
    client: httpx.AsyncClient, account: Account, buyer: Bearer
) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    async with account.sessions.begin() as session:
        await session.execute(text("DROP TABLE api_calls"))
    assert (await client.post(f"{API}/subscription/cancel", headers=buyer)).status_code == 200
