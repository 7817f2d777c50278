"""The endpoint Stripe posts to: outside of all middleware, and yet with all that middleware gives to other routes."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from billing import SECRET
from fastapi import FastAPI
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from serving import API, PROBLEM, serving
from signing import body, sign
from sqlalchemy import func, select
from starlette.types import Message
from structlog.testing import capture_logs

from app import models
from app.api.webhooks import MAX_BODY_BYTES
from app.db import Sessions
from app.main import create_app
from app.provider.protocol import BillingProvider
from app.services import receiver
from app.services.receiver import Receipt
from app.settings import Settings

PATHS = (f"{API}/webhook", f"{API}/webhooks/stripe", "/webhooks/stripe")
EVENT = {
    "object": "event",
    "id": "evt_1",
    "type": "customer.updated",
    "created": 1767225600,
    "livemode": False,
    "api_version": "2026-10-28.endive",
    "data": {"object": {"object": "customer", "id": "cus_1"}},
}


async def deliver(
    client: httpx.AsyncClient, event: Any = EVENT, path: str = PATHS[0], **headers: str
) -> httpx.Response:
    payload = body(event)
    return await client.post(path, content=payload, headers={"Stripe-Signature": sign(payload, SECRET), **headers})


async def stored(sessions: Sessions) -> int:
    async with sessions() as session:
        return await session.scalar(select(func.count()).select_from(models.StripeEvent)) or 0


async def test_each_of_its_names_says_what_became_of_the_event(client: httpx.AsyncClient, sessions: Sessions) -> None:
    for path, outcome in zip(PATHS, ("stored", "duplicate", "duplicate"), strict=True):
        response = await deliver(client, path=path)
        assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
        assert response.json() == {"id": "evt_1", "outcome": outcome}
    odd = 'evt_"\\\n\u00e9'
    assert (await deliver(client, EVENT | {"id": odd})).json() == {"id": odd, "outcome": "stored"}
    assert await stored(sessions) == 2


async def test_answers_carry_what_other_routes_answers_carry(client: httpx.AsyncClient) -> None:
    plain = (await client.get(f"{API}/subscription")).headers
    refused = await client.post(PATHS[0], content=b"{}")
    for response in (await deliver(client), refused):
        for header in (
            "x-content-type-options",
            "referrer-policy",
            "content-security-policy",
            "cache-control",
        ):
            assert response.headers.get_list(header) == [plain[header]]
        assert len(response.headers["x-request-id"]) == len(plain["x-request-id"]) == 32
    assert (await deliver(client, **{"X-Request-ID": "mine"})).headers["x-request-id"] == "mine"
    assert (await deliver(client, **{"X-Request-ID": "not mine"})).headers["x-request-id"] != "not mine"


async def test_a_refusal_is_a_problem_that_says_which(client: httpx.AsyncClient) -> None:
    unsigned = await client.post(PATHS[0], content=body(EVENT), headers={"X-Request-ID": "ask-me"})
    senseless = await deliver(client, {"object": "event"})
    for response, code in ((unsigned, "invalid_signature"), (senseless, "invalid_event")):
        assert (response.status_code, response.headers["content-type"]) == (400, PROBLEM)
        assert (response.json()["code"], response.json()["retryable"]) == (code, False)
    assert unsigned.json()["request_id"] == "ask-me"


async def test_a_full_queue_asks_to_come_back(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "WAITING_ROWS", 0)
    response = await deliver(client)
    assert (response.status_code, response.headers["content-type"]) == (503, PROBLEM)
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["retryable"] is True


HEADERS = st.binary(max_size=40) | st.sampled_from([b"", b"t=", b"t=1767225600,v1=", b"t=1,v1=" + b"\xff" * 64])
BODIES = st.binary(max_size=200) | st.sampled_from([b"", b"{}", b"null", b"[" * 5000, body(EVENT)])


@examples(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=HEADERS, payload=BODIES)
async def test_whatever_is_sent_unsigned_is_refused_and_nothing_is_stored(
    client: httpx.AsyncClient, sessions: Sessions, header: bytes, payload: bytes
) -> None:
    response = await client.post(PATHS[0], content=payload, headers={b"Stripe-Signature": header})
    assert (response.status_code, response.headers["content-type"]) == (400, PROBLEM)
    assert await stored(sessions) == 0


@examples(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=BODIES | st.text(max_size=200).map(str.encode) | st.recursive(st.none(), st.lists).map(body))
async def test_whatever_is_sent_signed_is_never_an_error_of_ours(client: httpx.AsyncClient, payload: bytes) -> None:
    try:
        signature = sign(payload, SECRET)
    except UnicodeDecodeError:
        signature = ""
    response = await client.post(PATHS[0], content=payload, headers={"Stripe-Signature": signature})
    assert response.status_code == (200 if payload == body(EVENT) else 400)


@pytest.fixture
def app(quiet: Settings, provider: BillingProvider) -> FastAPI:
    return create_app(quiet, provider=provider)


async def posted(app: FastAPI, *received: Message, state: dict[str, Any] | None = None) -> list[Message]:
    """What is sent to a client that sends `received`."""
    scope = {"type": "http", "method": "POST", "path": PATHS[0], "headers": [], "state": state or {}}
    messages, sent = iter(received), []

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def test_a_client_that_hangs_up_in_mid_body_is_nobodys_error(app: FastAPI) -> None:
    part = {"type": "http.request", "body": b"{", "more_body": True}
    with capture_logs() as lines:
        assert await posted(app, part, part, {"type": "http.disconnect"}) == []
    assert lines == []


async def test_a_body_is_read_no_further_than_its_limit(app: FastAPI) -> None:
    part = {"type": "http.request", "body": b" " * MAX_BODY_BYTES, "more_body": True}
    start, _ = await posted(app, part, part)  # a third would be one too many
    assert start["status"] == 413


async def test_a_bug_says_nothing_but_the_request_id(app: FastAPI) -> None:
    class Broken:
        async def receive(self, _payload: bytes, _signature: str) -> Receipt:
            raise RuntimeError(SECRET)

    with capture_logs() as lines:
        start, content = await posted(
            app, {"type": "http.request", "body": b"", "more_body": False}, state={"receiver": Broken()}
        )
    problem = json.loads(content["body"])
    assert (start["status"], problem["code"]) == (500, "internal_error")
    assert dict(start["headers"])[b"x-request-id"].decode() == problem["request_id"]
    assert SECRET not in str(problem)
    assert [line["event"] for line in lines] == ["http_request_failed"]


@pytest.fixture
async def telling(
    quiet: Settings, provider: BillingProvider, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[tuple[httpx.AsyncClient, pytest.CaptureFixture[str]]]:
    """A client of a service that logs as in production, and what it logs."""
    async with serving(create_app(quiet.model_copy(update={"log_level": "info"}), provider=provider)) as client:
        yield client, capsys


async def test_each_delivery_leaves_one_line(
    telling: tuple[httpx.AsyncClient, pytest.CaptureFixture[str]],
) -> None:
    client, capsys = telling
    with capture_logs() as others:
        await asyncio.gather(*(deliver(client, EVENT | {"id": f"evt_{number}"}) for number in range(5)))
        await deliver(client, EVENT | {"id": "evt_of ada@example.com\n"}, **{"X-Request-ID": "r1"})
        await client.post(PATHS[0], content=b"{}", headers={"X-Request-ID": "r2"})
        await client.post(PATHS[0], content=b" " * (MAX_BODY_BYTES + 1), headers={"X-Request-ID": "r3"})
        await asyncio.sleep(0)
    assert others == []
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(line["event"], line["level"]) for line in lines} == {("stripe_webhook_received", "info")}
    assert sorted(line["event_id"] for line in lines[:5]) == [f"evt_{number}" for number in range(5)]
    assert all(line["timestamp"].endswith("Z") and line["duration_ms"] > 0 for line in lines)
    told = [
        {name: line.get(name) for name in ("request_id", "status", "outcome", "code", "event_id", "event_type")}
        for line in lines[5:]
    ]
    assert [tuple(line.values()) for line in told] == [
        ("r1", 200, "stored", None, "evt_of [redacted]\n", "customer.updated"),
        ("r2", 400, "refused", "invalid_signature", None, None),
        ("r3", 413, "refused", None, None, None),
    ]


async def test_deliveries_are_counted_by_type_and_by_route(client: httpx.AsyncClient) -> None:
    await deliver(client)
    await deliver(client)
    await deliver(client, EVENT | {"id": "evt_2", "type": "something.new"})
    await client.post(PATHS[0], content=b"{}")
    metrics = (await client.get("/metrics")).text
    for sample in (
        'events_received_total{outcome="stored",type="customer.updated"}',
        'events_received_total{outcome="duplicate",type="customer.updated"}',
        'events_received_total{outcome="ignored",type="other"}',
        'events_received_total{outcome="refused",type="other"}',
        'batch_size_count{stage="receive"}',
    ):
        assert f"billing_webhook_{sample}" in metrics
    for status in (200, 400):
        assert f'billing_http_requests_total{{method="POST",route="{PATHS[0]}",status="{status}"}}' in metrics
    assert f'billing_http_request_duration_seconds_count{{method="POST",route="{PATHS[0]}"}}' in metrics
    assert "something.new" not in metrics
