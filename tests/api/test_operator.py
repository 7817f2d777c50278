"""What operators see: events with what became of them, and who changed what."""

from collections.abc import AsyncIterator

import httpx
import pytest
from billing import Account
from serving import API, Bearer, CreateKey, serving

from app.main import create_app
from app.settings import Settings


@pytest.fixture
async def client(account: Account, quiet: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=account.provider)) as client:
        yield client


async def test_events_can_be_filtered_and_paged(
    client: httpx.AsyncClient, account: Account, create_key: CreateKey
) -> None:
    key = await create_key("operator")
    await account.buy()
    await account.deliver_and_process(account.events())

    async def ids(query: str = "") -> list[str]:
        answer = await client.get(f"{API}/events{query}", headers=key)
        assert answer.status_code == 200, answer.text
        return [event["id"] for event in answer.json()]

    told = [event["id"] for event in account.events()]
    assert sorted(await ids("?limit=100")) == sorted(told)
    assert await ids("?type=invoice.paid") == [event["id"] for event in account.events("invoice.paid")]
    assert set(await ids("?status=ignored&limit=100")) | set(await ids("?status=processed&limit=100")) == set(told)
    assert await ids("?customer=demo-1&limit=100") == await ids(
        f"?customer={account.sandbox.rows('customer')[0]['id']}&limit=100"
    )
    everything = await ids("?limit=100")
    assert await ids(f"?limit=3&starting_after={everything[2]}") == everything[3:6]


async def test_the_audit_log_says_who_did_what(
    client: httpx.AsyncClient, account: Account, create_key: CreateKey
) -> None:
    key = await create_key("operator")
    await account.buy()
    await account.deliver_and_process(account.events())
    rows = (await client.get(f"{API}/audit?customer=demo-1&limit=100", headers=key)).json()
    actions = {(row["action"], row["actor"]) for row in rows}
    assert {
        ("customer.created", "user:demo-1"),
        ("checkout_session.created", "user:demo-1"),
        ("subscription.created", "stripe"),
        ("checkout_session.updated", "stripe"),
    } <= actions
    assert all(row["stripe_event_id"] for row in rows if row["actor"] == "stripe")
    assert "ada@example.com" not in str(rows)


@pytest.mark.parametrize("path", ["/events", "/audit"])
async def test_only_operators_look(client: httpx.AsyncClient, ada: Bearer, create_key: CreateKey, path: str) -> None:
    assert (await client.get(f"{API}{path}")).status_code == 401
    assert (await client.get(f"{API}{path}", headers=ada)).status_code == 403
    reader = await create_key("billing:read", "billing:write")
    assert (await client.get(f"{API}{path}", headers=reader)).status_code == 403
