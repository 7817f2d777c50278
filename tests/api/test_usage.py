"""Usage over HTTP: recorded by users and backends, summed up, corrected, and shown to operators."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from billing import ADA, Account
from serving import API, PROBLEM, Bearer, CreateKey, bearer, serving
from sqlalchemy import delete, update

from app import models
from app.db import transaction
from app.main import create_app
from app.services.customers import Buyer
from app.services.identity import mint_development_token
from app.settings import Settings
from app.values import unix_now


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


@pytest.fixture
async def item(account: Account) -> str:
    """Ada's item on the basic plan."""
    await account.buy(plan="basic")
    await account.deliver_and_process(account.events())
    [subscription] = account.sandbox.rows("subscription")
    id: str = subscription["items"]["data"][0]["id"]
    return id


@pytest.fixture
def owner(settings: Settings) -> Bearer:
    return bearer(mint_development_token(settings, ADA.user_id))


@pytest.fixture
async def writer(create_key: CreateKey) -> Bearer:
    return await create_key("usage:write")


def event(id: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "meter": "api_calls", "user_id": ADA.user_id, **more}


async def send(client: httpx.AsyncClient, writer: Bearer, *events: dict[str, Any]) -> Any:
    answer = await client.post(f"{API}/usage/events", json={"events": list(events)}, headers=writer)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_user_records_usage_of_their_item(client: httpx.AsyncClient, owner: Bearer, item: str) -> None:
    now = unix_now()
    query = {"subscription_item_id": item}
    body = {"quantity": 12, "timestamp": now, "action": "increment"}
    headers = owner | {"Idempotency-Key": "use-1"}
    answers = [await client.post(f"{API}/usage/record", params=query, json=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    assert answers[0].json() == {
        "id": answers[0].json()["id"],
        "object": "usage_record",
        "quantity": 12,
        "subscription_item": item,
        "timestamp": now,
        "livemode": False,
    }
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    await client.post(f"{API}/usage/record", params=query, json={"quantity": 3}, headers=owner)
    await client.post(f"{API}/usage/record", params=query, json={"quantity": 3, "timestamp": "now"}, headers=owner)
    [summary] = (await client.get(f"{API}/usage", headers=owner)).json()
    assert (summary["meter"], summary["used"], summary["limit"], summary["remaining"]) == (
        "api_calls",
        18,
        10_000,
        9982,
    )
    assert summary["period_start"] <= now < summary["resets_at"]


async def test_one_use_counts_once_even_when_its_answer_is_forgotten(
    client: httpx.AsyncClient, account: Account, owner: Bearer, item: str
) -> None:
    """As after a crash between commit and answer, and after the day that answers are kept for."""

    async def record(quantity: int = 3) -> httpx.Response:
        headers = owner | {"Idempotency-Key": "use-1"}
        query = {"subscription_item_id": item}
        return await client.post(f"{API}/usage/record", params=query, json={"quantity": quantity}, headers=headers)

    first = (await record()).json()
    async with transaction(account.sessions) as session:
        await session.execute(delete(models.IdempotencyKey))
        await session.execute(update(models.UsageEvent).values(timestamp=first["timestamp"] - 60))
    again = await record()
    assert (again.status_code, again.json()) == (200, first | {"timestamp": first["timestamp"] - 60})
    async with transaction(account.sessions) as session:
        await session.execute(delete(models.IdempotencyKey))
    other = await record(4)
    assert (other.status_code, other.json()["code"]) == (409, "id_reused")
    [summary] = (await client.get(f"{API}/usage", headers=owner)).json()
    assert summary["used"] == 3


async def test_the_same_idempotency_key_of_two_users_is_two_uses(
    client: httpx.AsyncClient, account: Account, owner: Bearer, item: str, settings: Settings
) -> None:
    await account.buy(Buyer(user_id="zoe", email="zoe@example.com", name="Zoe"), plan="basic")
    await account.deliver_and_process(account.events())
    [hers] = [row for row in account.sandbox.rows("subscription") if row["items"]["data"][0]["id"] != item]
    zoe = bearer(mint_development_token(settings, "zoe"))
    ids = []
    for who, whose in ((owner, item), (zoe, hers["items"]["data"][0]["id"])):
        answer = await client.post(
            f"{API}/usage/record",
            params={"subscription_item_id": whose},
            json={"quantity": 3},
            headers=who | {"Idempotency-Key": "use-1"},
        )
        assert answer.status_code == 200, answer.text
        ids.append(answer.json()["id"])
    assert ids[0] != ids[1]
    for number, who in enumerate((owner, zoe)):
        [summary] = (await client.get(f"{API}/usage", headers=who)).json()
        assert summary["used"] == 3, number


async def test_usage_that_cannot_be_recorded_says_why(
    client: httpx.AsyncClient, owner: Bearer, grace: Bearer, item: str
) -> None:
    async def refusal(body: dict[str, Any], headers: Bearer = owner, **query: str) -> tuple[int, str]:
        params = {"subscription_item_id": item, **query}
        answer = await client.post(f"{API}/usage/record", params=params, json=body, headers=headers)
        assert answer.headers["content-type"] == PROBLEM, answer.text
        return answer.status_code, answer.json()["code"]

    assert await refusal({"quantity": 1, "action": "set"}) == (422, "usage_set_unsupported")
    assert await refusal({"quantity": 1}, grace) == (404, "subscription_item_not_found")
    assert await refusal({"quantity": 1}, subscription_item_id="si_nope") == (404, "subscription_item_not_found")
    assert await refusal({"quantity": 10_001}) == (409, "limit_exceeded")
    assert await refusal({"quantity": 1, "timestamp": unix_now() - 40 * 86_400}) == (422, "timestamp_too_old")
    assert await refusal({"quantity": 1, "timestamp": unix_now() + 900}) == (422, "timestamp_in_future")
    assert await refusal({"quantity": 1}, meter="bananas") == (422, "unknown_meter")
    assert (await refusal({"quantity": -1}))[0] == 422
    assert (await refusal({"quantity": 1, "unit": "call"}))[0] == 422


async def test_a_batch_says_what_became_of_each_event(
    client: httpx.AsyncClient, account: Account, writer: Bearer, owner: Bearer, item: str
) -> None:
    assert item
    [customer] = account.sandbox.rows("customer")
    first = event("a", quantity=5)
    answer = await send(
        client,
        writer,
        first,
        {"id": "b", "meter": "api_calls", "customer": customer["id"]},
        first,
        event("c", meter="bananas"),
        event("d", quantity=10_000),
        event("a", quantity=6),
    )
    assert (answer["accepted"], answer["duplicates"], answer["refused"]) == (2, 1, 3)
    assert [(one["id"], one["result"], one["code"]) for one in answer["results"]] == [
        ("a", "accepted", None),
        ("b", "accepted", None),
        ("a", "duplicate", None),
        ("c", "refused", "unknown_meter"),
        ("d", "refused", "limit_exceeded"),
        ("a", "refused", "id_reused"),
    ]
    again = await send(client, writer, first)
    assert again["results"] == [{"id": "a", "result": "duplicate", "code": None}]
    [summary] = (await client.get(f"{API}/usage", headers=owner)).json()
    assert summary["used"] == 6


async def test_a_batch_holds_a_thousand_events_and_no_more(
    client: httpx.AsyncClient, writer: Bearer, item: str
) -> None:
    assert item
    thousand = [event(f"event-{number:06d}-of-a-batch-of-many", timestamp=unix_now()) for number in range(1000)]
    assert len(str(thousand)) > 64 * 1024
    assert (await send(client, writer, *thousand))["accepted"] == 1000
    too_many = {"events": [*thousand, event("one-more")]}
    assert (await client.post(f"{API}/usage/events", json=too_many, headers=writer)).status_code == 422
    too_large = {"events": [event("x", user_id="u" * 600_000)]}
    assert (await client.post(f"{API}/usage/events", json=too_large, headers=writer)).status_code == 413
    assert (await client.post(f"{API}/usage/events/x/cancel", json=too_many, headers=writer)).status_code == 413


async def test_batches_need_the_key_s_scope_and_sense(
    client: httpx.AsyncClient, owner: Bearer, writer: Bearer, create_key: CreateKey
) -> None:
    body = {"events": [event("a")]}
    reader = await create_key("billing:read", "billing:write")
    for headers, status in (({}, 401), (owner, 403), (reader, 403)):
        assert (await client.post(f"{API}/usage/events", json=body, headers=headers)).status_code == status
        assert (await client.post(f"{API}/usage/events/a/cancel", headers=headers)).status_code == status
    for wrong in (
        {"events": []},
        {"events": [event("a", customer="cus_1")]},
        {"events": [{"id": "a", "meter": "api_calls"}]},
        {"events": [event("with space")]},
        {"events": [event("x" * 101)]},
        {"events": [event("a", quantity=-1)]},
        {"events": [event("a", quantity=1.5)]},
    ):
        assert (await client.post(f"{API}/usage/events", json=wrong, headers=writer)).status_code == 422, wrong


async def test_a_backend_reads_a_user_s_usage(
    client: httpx.AsyncClient, create_key: CreateKey, writer: Bearer, owner: Bearer
) -> None:
    await send(client, writer, event("a", quantity=7))
    reader = await create_key("billing:read")
    [summary] = (await client.get(f"{API}/usage", params={"user_id": ADA.user_id}, headers=reader)).json()
    assert (summary["used"], summary["limit"], summary["remaining"]) == (7, 100, 93)
    assert (await client.get(f"{API}/usage", headers=reader)).status_code == 422
    assert (await client.get(f"{API}/usage", params={"user_id": "grace"}, headers=owner)).status_code == 404
    [empty] = (await client.get(f"{API}/usage", params={"user_id": "nobody"}, headers=reader)).json()
    assert empty["used"] == 0


async def test_usage_can_be_taken_back(
    client: httpx.AsyncClient, writer: Bearer, owner: Bearer, create_key: CreateKey
) -> None:
    await send(client, writer, event("a", quantity=7), event("b"))
    answer = await client.post(f"{API}/usage/events/a/cancel", headers=writer)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["way"], answer.json()["correction"], answer.json()["event"]["status"]) == (
        "withdrawn",
        None,
        "canceled",
    )
    [summary] = (await client.get(f"{API}/usage", headers=owner)).json()
    assert summary["used"] == 1
    missing = await client.post(f"{API}/usage/events/nothing/cancel", headers=writer)
    assert (missing.status_code, missing.json()["code"]) == (404, "usage_event_not_found")
    operator = await create_key("operator")
    rows = (await client.get(f"{API}/audit?limit=5", headers=operator)).json()
    assert ("usage_event.canceled", "a") in {(row["action"], row["subject"]) for row in rows}


async def test_operators_have_failed_events_sent_again(
    client: httpx.AsyncClient, account: Account, writer: Bearer, owner: Bearer, create_key: CreateKey
) -> None:
    await send(client, writer, event("a", quantity=7), event("b"))
    async with transaction(account.sessions) as session:
        failed = {"status": "failed", "error_code": "resource_missing"}
        await session.execute(update(models.UsageEvent).where(models.UsageEvent.id == "a").values(failed))
    operator = await create_key("operator")
    for headers, status in (({}, 401), (owner, 403), (writer, 403)):
        assert (await client.post(f"{API}/usage/events/a/retry", headers=headers)).status_code == status
    answer = await client.post(f"{API}/usage/events/a/retry", headers=operator)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["status"], answer.json()["error_code"]) == ("pending", None)
    again = await client.post(f"{API}/usage/events/a/retry", headers=operator)
    assert (again.status_code, again.json()["code"]) == (409, "usage_event_not_failed")
    missing = await client.post(f"{API}/usage/events/nothing/retry", headers=operator)
    assert (missing.status_code, missing.json()["code"]) == (404, "usage_event_not_found")
    rows = (await client.get(f"{API}/audit?limit=5", headers=operator)).json()
    assert ("usage_event.retried", "a") in {(row["action"], row["subject"]) for row in rows}


async def test_operators_see_single_events(
    client: httpx.AsyncClient, writer: Bearer, owner: Bearer, create_key: CreateKey
) -> None:
    await send(client, writer, *(event(str(number)) for number in range(5)), event("g", user_id="grace"))
    operator = await create_key("operator")
    assert (await client.get(f"{API}/usage/events", headers=owner)).status_code == 403

    async def ids(query: str = "") -> list[str]:
        answer = await client.get(f"{API}/usage/events{query}", headers=operator)
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()]

    assert await ids() == ["g", "4", "3", "2", "1", "0"]
    assert await ids("?limit=2&starting_after=3") == ["2", "1"]
    assert await ids("?customer=grace") == ["g"]
    assert await ids("?status=held&meter=api_calls&limit=1") == ["g"]
    assert await ids("?status=failed") == []
    lost = await client.get(f"{API}/usage/events?starting_after=nothing", headers=operator)
    assert (lost.status_code, lost.json()["code"]) == (404, "usage_event_not_found")
    [first] = (await client.get(f"{API}/usage/events?limit=1", headers=operator)).json()
    assert (first["customer"], first["status"], first["attempts"], first["sent_at"]) == ("grace", "held", 0, None)


async def test_a_check_counts_what_was_used(client: httpx.AsyncClient, writer: Bearer, owner: Bearer) -> None:
    await send(client, writer, event("a", quantity=95))

    async def check(quantity: int) -> Any:
        body = {"meter": "api_calls", "quantity": quantity}
        return (await client.post(f"{API}/entitlements/check", json=body, headers=owner)).json()

    allowed = await check(5)
    assert (allowed["allowed"], allowed["limit"], allowed["used"], allowed["remaining"]) == (True, 100, 95, 5)
    assert allowed["resets_at"] > unix_now()
    refused = await check(6)
    assert (refused["allowed"], refused["reason"]) == (False, "limit_exceeded")


async def test_the_worker_beside_the_api_sends_usage_on(
    account: Account, settings: Settings, writer: Bearer, create_key: CreateKey, item: str
) -> None:
    assert item
    operator = await create_key("operator")
    async with serving(create_app(settings, provider=account.provider)) as client:
        await send(client, writer, event("a", quantity=3))
        for _ in range(200):
            [row] = (await client.get(f"{API}/usage/events?customer={ADA.user_id}", headers=operator)).json()
            if row["status"] == "sent":
                break
            await asyncio.sleep(0.1)
    assert (row["status"], row["attempts"], row["error_code"]) == ("sent", 1, None)
    [sent] = account.sandbox.rows("_meter_event")
    assert (sent["identifier"], sent["payload"]["value"]) == ("a", "3")
