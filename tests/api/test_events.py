"""Events for operators: found, looked into, and applied once more."""

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest
from billing import Account
from serving import API, Bearer, CreateKey, serving
from sqlalchemy import update

from app.db import Sessions
from app.main import create_app
from app.models import AuditRow, StripeEvent
from app.settings import Settings
from app.worker.replays import carry_out


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


@pytest.fixture
async def operator(create_key: CreateKey) -> Bearer:
    return await create_key("operator")


async def bury(sessions: Sessions, *event_ids: str) -> None:
    """Make events dead."""
    async with sessions.begin() as session:
        await session.execute(
            update(StripeEvent)
            .where(StripeEvent.event_id.in_(event_ids))
            .values(status="dead", attempts=12, last_error="LookupError: x")
        )


async def test_events_are_found_by_when_they_arrived(
    client: httpx.AsyncClient, account: Account, operator: Bearer
) -> None:
    await account.buy()
    first, *others = account.events()
    await account.deliver_and_process([first, *others])
    async with account.sessions.begin() as session:
        await session.execute(
            update(StripeEvent)
            .where(StripeEvent.event_id == first["id"])
            .values(received_at=datetime.fromtimestamp(1000, UTC))
        )

    async def found(since: int) -> set[str]:
        answer = await client.get(f"{API}/events?limit=100&since={since}", headers=operator)
        return {event["id"] for event in answer.json()}

    everything = {event["id"] for event in account.events()}
    assert await found(1000) == everything
    assert await found(1001) == everything - {first["id"]}
    assert await found(int(time.time()) + 60) == set()
    for wrong in ("-1", "x", "1e9", str(2**63), "253402300800"):
        assert (await client.get(f"{API}/events?since={wrong}", headers=operator)).status_code == 422, wrong


async def test_an_event_shows_what_it_says_and_what_it_did(
    client: httpx.AsyncClient, account: Account, operator: Bearer
) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    [paid] = account.events("invoice.paid")
    effects, changes, secrets = [], [], set()
    for event in account.events():
        answer = await client.get(f"{API}/events/{event['id']}", headers=operator)
        shown = answer.json()
        assert "_secret_" not in answer.text
        if secret := event["data"]["object"].get("client_secret"):
            secrets.add(secret)
            event["data"]["object"]["client_secret"] = "[redacted]"
        assert shown["payload"] == json.loads(json.dumps(event))
        effects += [effect["type"] for effect in shown["effects"]]
        changes += [row["action"] for row in shown["audit"]]
        assert {row["stripe_event_id"] for row in shown["audit"]} <= {event["id"]}
    assert secrets  # Stripe did tell one
    assert sorted(effects) == ["payment.received", "subscription.activated"]
    # Each change of Stripe's is some event's.
    assert sorted(changes) == sorted(row.action for row in await account.all(AuditRow) if row.stripe_event_id)
    assert "invoice.created" in changes
    shown = (await client.get(f"{API}/events/{paid['id']}", headers=operator)).json()
    assert (shown["status"], shown["attempts"], shown["next_attempt_at"]) == ("processed", 1, None)


async def test_an_event_outlives_its_payload(client: httpx.AsyncClient, account: Account, operator: Bearer) -> None:
    await account.buy()
    [event] = account.events("customer.created")
    await account.deliver_and_process([event])
    async with account.sessions.begin() as session:
        await session.execute(update(StripeEvent).values(payload=None))
    shown = (await client.get(f"{API}/events/{event['id']}", headers=operator)).json()
    assert (shown["id"], shown["payload"]) == (event["id"], None)
    refused = await client.post(f"{API}/events/{event['id']}/replay", headers=operator)
    assert (refused.status_code, refused.json()["code"]) == (409, "payload_not_kept")


async def test_a_payload_that_utf_8_can_not_say_is_shown_all_the_same(
    client: httpx.AsyncClient, sessions: Sessions, operator: Bearer
) -> None:
    event = {"event_id": "evt_1", "type": "x", "key": "x", "created": 1, "livemode": False}
    async with sessions.begin() as session:
        session.add(StripeEvent(**event, payload=r'{"half": "\ud83d", "whole": "\ud83d\ude00"}'))
    shown = (await client.get(f"{API}/events/evt_1", headers=operator)).json()
    assert shown["payload"] == {"half": "?", "whole": "\N{GRINNING FACE}"}


async def test_two_accounts_events_of_one_id_are_told_apart(
    client: httpx.AsyncClient, sessions: Sessions, operator: Bearer
) -> None:
    async with sessions.begin() as session:
        session.add_all(
            StripeEvent(
                account=account,
                event_id="evt_1",
                type="x",
                key="x",
                created=1,
                livemode=False,
                payload="{}",
            )
            for account in ("acct_1", "")
        )

    async def shown(query: str) -> tuple[int, str | None]:
        answer = await client.get(f"{API}/events/evt_1{query}", headers=operator)
        return answer.status_code, answer.json().get("account")

    assert await shown("") == (200, None)
    assert await shown("?account=acct_1") == (200, "acct_1")
    assert await shown("?account=acct_2") == (404, None)


async def test_a_single_event_is_replayed(client: httpx.AsyncClient, account: Account, operator: Bearer) -> None:
    await account.buy()
    await account.deliver(account.events("customer.created")[0])
    event_id = account.events("customer.created")[0]["id"]
    await bury(account.sessions, event_id)
    answer = await client.post(f"{API}/events/{event_id}/replay", headers=operator)
    assert (answer.status_code, answer.json()["status"], answer.json()["attempts"]) == (200, "pending", 0)
    await account.process()
    assert (await client.get(f"{API}/events/{event_id}", headers=operator)).json()["status"] == "processed"

    [ignored] = account.events("checkout.session.completed", "product.created")[:1]
    ignored["type"] = "topup.created"
    await account.deliver(ignored)
    refused = await client.post(f"{API}/events/{ignored['id']}/replay", headers=operator)
    assert (refused.status_code, refused.json()["code"]) == (409, "event_not_replayable")
    assert "topup.created" in refused.json()["detail"]
    unknown = await client.post(f"{API}/events/evt_never/replay", headers=operator)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "event_not_found")


async def test_many_events_are_replayed_as_a_job_that_says_how_far_it_is(
    client: httpx.AsyncClient, account: Account, operator: Bearer
) -> None:
    await account.buy()
    await account.deliver_and_process(account.events())
    dead = [event["id"] for event in account.events("invoice.paid", "customer.created")]
    await bury(account.sessions, *dead)

    asked = await client.post(f"{API}/events/replay", json={"status": "dead"}, headers=operator)
    assert asked.status_code == 202
    job = asked.json()
    assert (job["status"], job["total"], job["replayed"], job["filter"]) == ("running", 2, 0, {"status": "dead"})
    await carry_out(account.sessions, livemode=False)
    done = (await client.get(f"{API}/events/replays/{job['id']}", headers=operator)).json()
    assert (done["status"], done["replayed"], done["skipped"]) == ("done", 2, 0)
    assert done["finished_at"] >= done["created_at"]
    pending = (await client.get(f"{API}/events?status=pending", headers=operator)).json()
    assert {event["id"] for event in pending} == set(dead)

    for body in ({}, {"status": None}, {"status": "lost"}, {"since": "1"}, {"kind": "x"}, {"type": ""}):
        refused = await client.post(f"{API}/events/replay", json=body, headers=operator)
        assert refused.status_code == 422, body


async def test_replays_are_listed_page_by_page(client: httpx.AsyncClient, operator: Bearer) -> None:
    made = [
        (await client.post(f"{API}/events/replay", json={"since": number}, headers=operator)).json()["id"]
        for number in range(1, 6)
    ]
    url: str | None = f"{API}/events/replays?limit=2"
    found = []
    while url:
        answer = await client.get(url, headers=operator)
        found.append([job["id"] for job in answer.json()])
        url = answer.links["next"]["url"] if "next" in answer.links else None
    newest_first = made[::-1]
    assert found == [newest_first[:2], newest_first[2:4], newest_first[4:]]
    for wrong, status in ((str(uuid4()), 404), ("x", 422)):
        answer = await client.get(f"{API}/events/replays?starting_after={wrong}", headers=operator)
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/events/evt_1"),
        ("POST", "/events/evt_1/replay"),
        ("POST", "/events/replay"),
        ("GET", "/events/replays"),
        ("GET", f"/events/replays/{uuid4()}"),
        ("GET", "/customers/ada/timeline"),
    ],
)
async def test_only_operators_may(
    client: httpx.AsyncClient, ada: Bearer, create_key: CreateKey, method: str, path: str
) -> None:
    body = {"status": "dead"} if method == "POST" else None
    for caller in (ada, await create_key("billing:read", "billing:write")):
        assert (await client.request(method, f"{API}{path}", json=body, headers=caller)).status_code == 403
