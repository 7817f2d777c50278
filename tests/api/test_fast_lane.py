"""Checks and charges are answered ahead of the middleware: nothing of what it gives may be missing."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from charging import CHARGES, CHECK, GOOGLE, charge, check, count, sample, set_status
from fastapi import FastAPI
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, NoOpTracer, TracerProvider
from serving import API, PROBLEM, Bearer, CreateKey, bearer, serving
from sqlalchemy import update
from starlette.responses import PlainTextResponse
from starlette.types import Message
from structlog.testing import capture_logs

from app import models
from app.api import body_reader
from app.api.openapi import BillhookAPI
from app.db import Sessions, transaction
from app.embedded import start_valkey
from app.main import MAX_BODY_BYTES, create_app
from app.provider.protocol import BillingProvider
from app.services import identity
from app.settings import Settings
from app.values import utcnow

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def key(create_key: CreateKey) -> Bearer:
    return await create_key("credits:write")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "malformed_json"),
        (b"\xff\xfe", 400, "malformed_json"),
        (b"[" * 5000, 400, "malformed_json"),
        (b" " * MAX_BODY_BYTES, 400, "malformed_json"),
        (b"[]", 422, "invalid_request"),
        (b"null", 422, "invalid_request"),
        (b'{"user_id": "ada", "quantity": "1"}', 422, "invalid_request"),
        (b'{"user_id": "ada", "quantity": true}', 422, "invalid_request"),
        (b'{"user_id": "ada", "quantity": 0}', 422, "invalid_request"),
        (b'{"user_id": "ada", "quantity": 1e400}', 422, "invalid_request"),
        (b'{"user_id": "a\\u0000"}', 422, "invalid_request"),
        (b'{"user_id": "ada", "customer": "cus_1"}', 422, "invalid_request"),
        (b'{"oauth_provider": "google"}', 422, "invalid_request"),
    ],
)
async def test_a_senseless_body_is_refused(
    client: httpx.AsyncClient, key: Bearer, content: bytes, status: int, code: str
) -> None:
    for path in (CHECK, CHARGES):
        refused = await client.post(path, content=content, headers=key | JSON | {"Idempotency-Key": "wish-1"})
        assert (refused.status_code, refused.json()["code"]) == (status, code)
        assert refused.headers["content-type"] == PROBLEM


async def test_unknown_fields_and_parameters_are_no_silent_surprise(client: httpx.AsyncClient, key: Bearer) -> None:
    refused = await check(client, key, **GOOGLE, quantiy=2)
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert (error["pointer"], error["param"], error["code"]) == ("#/quantiy", "quantiy", "extra_forbidden")
    for path in (CHECK, CHARGES):
        refused = await client.post(path, params={"user_id": "ada"}, json=GOOGLE, headers=key)
        assert (refused.status_code, refused.json()["code"]) == (422, "unknown_parameter")
    for odd in ({"amount_minor": 1}, {"currency": "usd"}, {"expires_in": 5}, {"metadata": {"": "x"}}):
        assert (await charge(client, key, "wish-1", **GOOGLE, **odd)).status_code == 422


async def test_a_body_beyond_the_limit_is_refused_announced_or_not(client: httpx.AsyncClient, key: Bearer) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 1024 + 1):
            yield b" " * 1024

    for path in (CHECK, CHARGES):
        for content in (b" " * (MAX_BODY_BYTES + 1), parts()):
            refused = await client.post(path, content=content, headers=key)
            assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")


BODIES = st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)
FIELDS = st.dictionaries(
    st.sampled_from(["user_id", "oauth_provider", "external_id", "customer", "quantity", "metadata", "context"]),
    st.none() | st.integers() | st.text(max_size=20) | st.dictionaries(st.text(max_size=5), st.text(max_size=5)),
)


@examples(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=BODIES | FIELDS.map(json.dumps))
async def test_whatever_is_sent_is_never_an_error_of_ours(
    client: httpx.AsyncClient, key: Bearer, content: bytes | str
) -> None:
    for path in (CHECK, CHARGES):
        answer = await client.post(path, content=content, headers=key | {"Idempotency-Key": "wish-1"})
        assert answer.status_code < 500


@pytest.fixture
def app(quiet: Settings, provider: BillingProvider) -> FastAPI:
    return create_app(quiet, provider=provider)


async def posted(app: FastAPI, *received: Message, state: dict[str, Any] | None = None) -> list[Message]:
    """What is sent to a client that sends `received`."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": CHECK,
        "query_string": b"",
        "state": state or {},
        "headers": [(b"authorization", b"Bearer " + b"x" * 10)],
    }
    messages, sent = iter(received), []

    async def receive() -> Message:
        try:
            return next(messages)
        except StopIteration:
            await asyncio.sleep(60)
            raise

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def test_a_client_that_hangs_up_in_mid_body_is_nobodys_error(app: FastAPI) -> None:
    part = {"type": "http.request", "body": b"{", "more_body": True}
    with capture_logs() as lines:
        assert await posted(app, part, {"type": "http.disconnect"}) == []
    assert lines == []


async def test_a_body_that_never_ends_is_given_up(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_reader, "READ_SECONDS", 0.05)
    start, content = await posted(app, {"type": "http.request", "body": b"{", "more_body": True})
    assert (start["status"], json.loads(content["body"])["code"]) == (408, "body_too_slow")


async def test_a_bug_says_nothing_but_the_request_id(app: FastAPI) -> None:
    class Broken:
        @property
        def jwt_secret(self) -> None:
            raise RuntimeError("the secret")

    with capture_logs() as lines:
        start, content = await posted(
            app,
            {"type": "http.request", "body": b"{}"},
            state={"settings": Broken(), "limiter": None, "jwks": None},
        )
    problem = json.loads(content["body"])
    assert (start["status"], problem["code"]) == (500, "internal_error")
    assert dict(start["headers"])[b"x-request-id"].decode() == problem["request_id"]
    assert "secret" not in str(problem)
    assert [line["event"] for line in lines] == ["http_request_failed"]


async def test_other_methods_are_refused(client: httpx.AsyncClient, key: Bearer) -> None:
    for path in (CHECK, CHARGES):
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            refused = await client.request(method, path, headers=key)
            assert (refused.status_code, refused.headers["content-type"]) == (405, PROBLEM)


async def test_answers_carry_what_other_routes_answers_carry(client: httpx.AsyncClient, key: Bearer) -> None:
    plain = (await client.post(f"{API}/entitlements/check", json={})).headers
    answers = [
        await check(client, key, **GOOGLE),
        await charge(client, key, "wish-1"),
        await charge(client, key, "wish-2", **GOOGLE, quantity=9),
        await client.post(CHECK),
    ]
    assert [answer.status_code for answer in answers] == [200, 201, 402, 401]
    for answer in answers:
        for header in (
            *("x-content-type-options", "referrer-policy", "content-security-policy", "cache-control", "vary"),
        ):
            assert answer.headers.get_list(header) == [plain[header]]
        assert answer.headers.keys() >= plain.keys() - {"www-authenticate"}
        assert len(answer.headers["x-request-id"]) == len(plain["x-request-id"]) == 32
    mine = await client.post(CHECK, headers={"X-Request-ID": "mine"})
    assert (mine.headers["x-request-id"], mine.json()["request_id"]) == ("mine", "mine")


ORIGIN = "https://app.example.com"


async def test_pages_of_an_allowed_origin_may_ask_and_read(
    quiet: Settings, provider: BillingProvider, ada: Bearer
) -> None:
    app = create_app(quiet.model_copy(update={"cors_origins": (ORIGIN,)}), provider=provider)
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    async with serving(app) as client:
        preflight = await client.options(CHECK, headers={"Origin": ORIGIN, **asked})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        for headers, status in ((ada, 200), ({}, 401)):
            answer = await client.post(CHECK, json={}, headers=headers | {"Origin": ORIGIN})
            ordinary = await client.get(f"{API}/subscription", headers=headers | {"Origin": ORIGIN})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            for header in ("access-control-expose-headers", "vary"):
                assert answer.headers.get_list(header) == ordinary.headers.get_list(header)
        stranger = await client.post(CHECK, json={}, headers=ada | {"Origin": "https://evil.example.com"})
        assert "access-control-allow-origin" not in stranger.headers
        assert stranger.headers.get_list("vary") == ["Origin"]


LIMIT = 5


@pytest.fixture
async def limited(quiet: Settings, provider: BillingProvider) -> AsyncIterator[httpx.AsyncClient]:
    settings = quiet.model_copy(update={"rate_limit_per_minute": LIMIT, "rate_limit_per_minute_for_keys": LIMIT + 2})
    async with serving(create_app(settings, provider=provider)) as client:
        yield client


async def test_a_caller_is_told_what_is_left_and_then_to_wait(limited: httpx.AsyncClient, ada: Bearer) -> None:
    for left in reversed(range(LIMIT)):
        answer = await check(limited, ada)
        assert answer.status_code == 200
        assert answer.headers["ratelimit-policy"] == f'"default";q={LIMIT};w=60'
        assert answer.headers["ratelimit"].startswith(f'"default";r={left};t=')
    for answer in (await check(limited, ada), await limited.get(f"{API}/subscription", headers=ada)):
        assert (answer.status_code, answer.headers["content-type"]) == (429, PROBLEM)
        assert answer.headers["ratelimit"].startswith('"default";r=0;t=')
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert (answer.json()["code"], answer.json()["retryable"]) == ("rate_limited", True)


async def test_of_many_at_once_as_many_are_allowed_as_of_one_by_one(
    limited: httpx.AsyncClient, key: Bearer, sessions: Sessions
) -> None:
    answers = await asyncio.gather(
        *(charge(limited, key, f"wish-{number}", **GOOGLE, quantity=1) for number in range(3 * LIMIT))
    )
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [201] * 3 + [402] * (LIMIT - 1) + [429] * (2 * LIMIT - 2)
    assert await count(sessions, models.CreditCharge) == 3


async def test_who_cannot_be_verified_is_limited_by_address(
    limited: httpx.AsyncClient, key: Bearer, sessions: Sessions
) -> None:
    await check(limited, key, **GOOGLE)
    async with transaction(sessions) as session:
        await session.execute(update(models.ApiKey).values(revoked_at=utcnow()))
    guesses = [bearer(f"guess-{number}") for number in range(LIMIT - 2)]
    statuses = [(await check(limited, who, **GOOGLE)).status_code for who in (key, {}, *guesses, {}, key)]
    assert statuses == [401] * LIMIT + [429] * 2


async def test_without_redis_nobody_is_limited(
    quiet: Settings, provider: BillingProvider, key: Bearer, ada: Bearer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with start_valkey(tmp_path_factory.mktemp("valkey"), durable=False) as server:
        gone = server.url
    settings = quiet.model_copy(update={"redis_url": type(quiet.redis_url)(gone), "rate_limit_per_minute": 1})
    async with serving(create_app(settings, provider=provider)) as client:
        for number in range(3):
            for answer in (await check(client, ada), await charge(client, key, f"wish-{number}")):
                assert answer.status_code < 300
                assert "ratelimit" not in answer.headers


async def test_without_postgres_it_says_to_come_back(
    quiet: Settings, provider: BillingProvider, ada: Bearer, key: Bearer
) -> None:
    nowhere = type(quiet.database_url)("postgresql+asyncpg://billhook@/billhook?host=/nowhere&port=5432")
    async with serving(create_app(quiet.model_copy(update={"database_url": nowhere}), provider=provider)) as client:
        for answer in (await check(client, ada), await check(client, key, **GOOGLE), await charge(client, key, "1")):
            assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM)
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json()["retryable"] is True


@pytest.fixture
async def telling(
    quiet: Settings, provider: BillingProvider, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[tuple[httpx.AsyncClient, pytest.CaptureFixture[str]]]:
    """A client of a service that logs as in production, and what it logs."""
    async with serving(create_app(quiet.model_copy(update={"log_level": "info"}), provider=provider)) as client:
        yield client, capsys


async def test_each_request_leaves_a_line_and_each_charge_another(
    telling: tuple[httpx.AsyncClient, pytest.CaptureFixture[str]], key: Bearer, settings: Settings
) -> None:
    client, capsys = telling
    user = bearer(identity.mint_development_token(settings, "ada@example.com"))
    with capture_logs() as others:
        await check(client, {**user, "X-Request-ID": "r1"})
        made = (await charge(client, key, "wish-1")).json()
        held = (await charge(client, key, "wish-2", **GOOGLE, hold=True)).json()
        await charge(client, key, "wish-3", **GOOGLE, quantity=9)
        await client.post(CHECK)
        await asyncio.sleep(0)
    assert others == []
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    requests = [line for line in lines if line["event"] == "http_request"]
    assert [(line["route"], line["status"]) for line in requests] == [
        *((CHECK, 200), (CHARGES, 201), (CHARGES, 201), (CHARGES, 402), (CHECK, 401))
    ]
    assert all(line["method"] == "POST" and line["duration_ms"] > 0 for line in requests)
    assert (requests[0]["request_id"], requests[0]["caller"]) == ("r1", "user:[redacted]")
    assert requests[1]["caller"].startswith("key:")
    assert requests[4]["caller"] is None
    told = [line for line in lines if line["event"] != "http_request"]
    assert [line["event"] for line in told] == ["charge_created", "charge_held", "charge_refused"]
    assert [line.get("charge_id") for line in told] == [made["charge_id"], held["charge_id"], None]
    assert told[2]["code"] == "insufficient_credits"
    assert [line["request_id"] for line in told] == [line["request_id"] for line in requests[1:4]]
    assert "user@example.com" not in str(lines)


async def test_a_lane_is_traced_as_routes_are() -> None:
    ended: list[Any] = []

    class Traced(NonRecordingSpan):
        def __init__(self, attributes: dict[str, Any]) -> None:
            super().__init__(INVALID_SPAN_CONTEXT)
            self.attributes = attributes

        def end(self, end_time: int | None = None) -> None:  # noqa: ARG002 - as it is called
            ended.append(self.attributes["url.path"])

    class Tracing(NoOpTracer):
        def start_span(self, *_: Any, attributes: Any = None, **_more: Any) -> Traced:
            return Traced(attributes)

    class Provider(TracerProvider):
        def get_tracer(self, *_: Any, **_more: Any) -> Tracing:
            return Tracing()

    lane = PlainTextResponse("in the lane")
    telemetry = {"tracer_provider": Provider(), "operation_spans": False}
    app = BillhookAPI(api_prefix="/api", webhooks={}, lanes={"/api/lane": lane}, telemetry=telemetry)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://billhook.test") as client:
        assert (await client.post("/api/lane")).text == "in the lane"
        assert (await client.post("/api/route")).status_code == 404
    assert ended == ["/api/lane", "/api/route"]


async def test_checks_and_charges_are_counted(client: httpx.AsyncClient, key: Bearer, sessions: Sessions) -> None:
    names = (
        'billing_credit_checks_total{purchase_required="false"}',
        'billing_credit_checks_total{purchase_required="true"}',
        'billing_charges_total{success="true"}',
        'billing_charges_total{success="false"}',
        f'billing_http_requests_total{{method="POST",route="{CHECK}",status="200"}}',
        f'billing_http_requests_total{{method="POST",route="{CHARGES}",status="402"}}',
        f'billing_http_request_duration_seconds_count{{method="POST",route="{CHARGES}"}}',
    )
    before = [await sample(client, name) for name in names]
    await check(client, key, **GOOGLE)
    await check(client, key, **GOOGLE, quantity=5)
    await charge(client, key, "wish-1")
    await charge(client, key, "wish-2", **GOOGLE, quantity=5)
    await set_status(sessions, "suspended")
    await charge(client, key, "wish-3")
    after = [await sample(client, name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1, 2, 2, 1, 3]
