"""Beginning anew: `/_sandbox/reset`, ids that a seed makes the same, and what `/_sandbox` says is there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import START_SECONDS, free_port, start, stop
from starlette.applications import Starlette

from app.sandbox.app import create_sandbox


def client_of(app: Starlette) -> httpx.AsyncClient:
    headers = {"Authorization": "Bearer sk_test_billhook"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://s", headers=headers)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create_sandbox(seed=7)) as client:
        yield client


async def bought(http: httpx.AsyncClient) -> list[str]:
    """Make a few things, and give their ids and the request's."""
    made = []
    for path, form in (
        ("customers", {"email": "ada@example.com"}),
        ("products", {"name": "Pro", "default_price_data[currency]": "usd", "default_price_data[unit_amount]": "500"}),
    ):
        answer = await http.post(f"/v1/{path}", data=form)
        assert answer.status_code == 200, answer.text
        made += [answer.json()["id"], answer.headers["Request-Id"]]
    events = (await http.get("/v1/events")).json()["data"]
    return made + [event["id"] for event in events]


async def hook(http: httpx.AsyncClient) -> dict[str, Any]:
    form = {"url": "http://app.test/hook", "enabled_events[]": "invoice.paid"}
    made: dict[str, Any] = (await http.post("/v1/webhook_endpoints", data=form)).json()
    return made


async def test_a_reset_forgets_everything_but_where_webhooks_go(http: httpx.AsyncClient) -> None:
    endpoint = await hook(http)
    await bought(http)
    await http.post("/_sandbox/faults", data={"fault": "error", "path": "/v1/nothing"})
    await http.post("/v1/customers", headers={"Idempotency-Key": "k1"})
    after = (await http.post("/_sandbox/reset")).json()
    assert after["objects"] == {"webhook_endpoint": 1}
    assert after["faults"] == []
    assert after["pending_deliveries"] == 0
    assert (await http.get("/v1/customers")).json()["data"] == []
    assert (await http.get(f"/v1/webhook_endpoints/{endpoint['id']}")).json()["url"] == endpoint["url"]
    assert "Idempotent-Replayed" not in (await http.post("/v1/customers", headers={"Idempotency-Key": "k1"})).headers


async def test_the_webhook_endpoints_go_when_asked(http: httpx.AsyncClient) -> None:
    await hook(http)
    after = (await http.post("/_sandbox/reset", json={"webhook_endpoints": True})).json()
    assert after["webhook_endpoints"] == []


async def test_after_a_reset_the_same_requests_give_the_same_ids(http: httpx.AsyncClient) -> None:
    first = await bought(http)
    await http.post("/_sandbox/reset")
    assert await bought(http) == first
    await http.post("/_sandbox/reset", data={"seed": "8"})
    assert await bought(http) != first
    await http.post("/_sandbox/reset", data={"seed": "7"})
    assert await bought(http) == first


async def test_an_endpoint_that_stays_is_not_replaced_by_one_of_the_same_id(http: httpx.AsyncClient) -> None:
    kept = []
    for _ in range(3):
        kept.append((await hook(http))["id"])
        await http.post("/_sandbox/reset")
    assert len(set(kept)) == 3
    assert len((await http.get("/v1/webhook_endpoints")).json()["data"]) == 3


async def test_a_reset_refuses_what_it_does_not_know(http: httpx.AsyncClient) -> None:
    await bought(http)
    for form, param in (({"everything": "1"}, "everything"), ({"seed": "x"}, "seed")):
        answer = await http.post("/_sandbox/reset", data=form)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
    assert len((await http.get("/v1/customers")).json()["data"]) == 1


async def test_a_reset_reaches_the_file(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.jsonl"
    async with client_of(create_sandbox(state_file=file)) as http:
        await bought(http)
        await http.post("/_sandbox/reset")
        later = (await http.post("/v1/customers")).json()["id"]
    assert create_sandbox(state_file=file).state.sandbox.ids("customer") == [later]


async def test_a_reset_amid_a_delivery_does_not_end_the_deliveries() -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(_request: httpx.Request) -> httpx.Response:
        asked.set()
        await go.wait()
        return httpx.Response(200)

    async with httpx.AsyncClient(transport=httpx.MockTransport(slow)) as webhooks:
        app = create_sandbox(webhook_client=webhooks)
        app.state.sandbox.add_webhook_endpoint("http://app.test/hook")
        async with client_of(app) as http:
            await http.post("/v1/customers")
            await http.post("/v1/customers")
            await asked.wait()
            await http.post("/_sandbox/reset")
            go.set()
            await app.state.sandbox.drain()
            await http.post("/v1/customers")
            await app.state.sandbox.drain()
        assert [row["status"] for row in app.state.sandbox.rows("_delivery")] == ["succeeded"]
        await app.state.sandbox.aclose()


async def test_the_sandbox_says_what_is_there(http: httpx.AsyncClient) -> None:
    endpoint = await hook(http)
    await bought(http)
    async with httpx.AsyncClient(transport=http._transport, base_url="http://s") as without_key:
        said = (await without_key.get("/_sandbox")).json()
    assert said["object"] == "sandbox"
    assert said["objects"]["customer"] == 1
    assert said["webhook_endpoints"] == [
        {"id": endpoint["id"], "url": "http://app.test/hook", "connect": False, "status": "enabled"}
    ]
    assert (said["accounts"], said["faults"], said["pending_deliveries"]) == ([], [], 0)


async def test_the_accounts_settings_are_changed_and_kept_to_sense(http: httpx.AsyncClient) -> None:
    before = (await http.get("/_sandbox/settings")).json()
    changed = await http.post("/_sandbox/settings", json={"retry_after_days": [1, 2], "after_retries": "unpaid"})
    assert changed.json() == {"retry_after_days": [1, 2], "after_retries": "unpaid"} != before
    for form, param in (({"after_retries": "hope"}, "after_retries"), ({"wat": "1"}, "wat")):
        refused = await http.post("/_sandbox/settings", data=form)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert (await http.get("/_sandbox/settings")).json() == changed.json()


async def test_the_command_line_takes_a_seed(http: httpx.AsyncClient, tmp_path: Path) -> None:
    """The same requests to a process with the seed of this one give the same ids."""
    port, log = free_port(), tmp_path / "sandbox.log"
    process = start("sandbox", "--port", str(port), "--seed", "7", log=log)
    try:
        headers = {"Authorization": "Bearer sk_test_billhook"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as there:
            async with asyncio.timeout(START_SECONDS):
                while not await answers(there):  # noqa: ASYNC110 - another process has no event to wait for
                    await asyncio.sleep(0.1)
            assert await bought(there) == await bought(http)
    finally:
        await asyncio.to_thread(stop, process)


async def answers(http: httpx.AsyncClient) -> bool:
    with suppress(httpx.TransportError):
        return (await http.get("/_sandbox")).is_success
    return False
