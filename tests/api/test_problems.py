"""Errors as callers see them: one shape, no secrets, and the right status for each kind of trouble."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from serving import API, PROBLEM, Bearer, serving
from sqlalchemy import text

from app.api.deps import SessionDep
from app.errors import PaymentFailedError, ProviderError, RateLimitedError, UnavailableError
from app.main import create_app
from app.provider.protocol import BillingProvider
from app.settings import Settings

CHECKOUT = f"{API}/checkout/session"
SECRET = "sk_live_do_not_tell"


def problem_of(response: httpx.Response, status: int, code: str) -> dict[str, object]:
    """The problem in an answer, after checking what every problem must have."""
    assert response.status_code == status
    assert response.headers["content-type"] == PROBLEM
    problem: dict[str, object] = response.json()
    request_id = response.headers["x-request-id"]
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["type"] == f"urn:billhook:error:{code}"
    assert problem["request_id"] == request_id
    assert problem["instance"] == f"urn:billhook:request:{request_id}"
    assert problem["title"]
    assert problem["detail"]
    return problem


@pytest.fixture
def app(quiet: Settings, provider: BillingProvider) -> FastAPI:
    """The service with routes that fail in every way a route can."""
    app = create_app(quiet, provider=provider)

    async def fail(kind: str, session: SessionDep) -> None:
        if kind == "bug":
            raise RuntimeError(SECRET)
        if kind == "card":
            raise PaymentFailedError(
                "Your card was declined.",
                provider_code="card_declined",
                decline_code="insufficient_funds",
                provider_request_id="req_1",
            )
        if kind == "stripe_limit":
            raise RateLimitedError("Stripe is busy.", retry_after=7)
        if kind == "stripe_away":
            raise UnavailableError("Stripe does not answer.")
        if kind == "stripe_key":
            raise ProviderError("Stripe refuses our key.")
        await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    async def collide(session: SessionDep) -> None:
        await session.execute(
            text("CREATE TABLE IF NOT EXISTS once (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")
        )
        await session.execute(text("INSERT INTO once VALUES (1)"))

    app.add_api_route("/fail/{kind}", fail, include_in_schema=False)
    app.add_api_route("/collide", collide, include_in_schema=False)
    return app


@pytest.fixture
async def failing(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(app) as client:
        yield client


async def test_an_unknown_address_is_a_problem(client: httpx.AsyncClient) -> None:
    for path in ("/nowhere", f"{API}/nowhere", f"{API}/plans/", "/static/nowhere.js", "/static/../main.py"):
        problem_of(await client.get(path), 404, "not_found")


async def test_an_unknown_method_is_a_problem_that_names_the_known_ones(client: httpx.AsyncClient) -> None:
    for method, path in (("DELETE", f"{API}/plans"), ("GET", f"{API}/webhook"), ("BREW", "/healthz")):
        response = await client.request(method, path)
        problem_of(response, 405, "method_not_allowed")
        assert response.headers["allow"] in {"GET", "POST"}


async def test_a_body_that_is_no_json_is_malformed(client: httpx.AsyncClient, ada: Bearer) -> None:
    for body in (b"{", b"{'plan': 1}", b"nul", b'{"plan": "pro",}'):
        headers = ada | {"Content-Type": "application/json"}
        problem_of(await client.post(CHECKOUT, content=body, headers=headers), 400, "malformed_json")


async def test_a_body_that_cannot_be_decoded_is_malformed(client: httpx.AsyncClient, ada: Bearer) -> None:
    for body in (b"\xff\xfe{", b"[" * 60_000):
        headers = ada | {"Content-Type": "application/json"}
        problem_of(await client.post(CHECKOUT, content=body, headers=headers), 400, "malformed_request")


async def test_a_body_of_another_type_is_refused(client: httpx.AsyncClient, ada: Bearer) -> None:
    body = json.dumps({"plan": "pro", "success_url": "x", "cancel_url": "x"})
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        response = await client.post(CHECKOUT, content=body, headers=ada | {"Content-Type": content_type})
        problem_of(response, 422, "invalid_request")


async def test_validation_names_the_field_but_never_repeats_its_value(client: httpx.AsyncClient, ada: Bearer) -> None:
    body = {"plan": 7, "success_url": [SECRET], "quantity": 1000, "surprise/~": SECRET}
    response = await client.post(CHECKOUT, json=body, headers=ada)
    problem = problem_of(response, 422, "invalid_request")
    assert SECRET not in response.text
    errors = problem["errors"]
    assert isinstance(errors, list)
    assert {(error["pointer"], error["param"], error["code"]) for error in errors} == {
        ("#/plan", "plan", "string_type"),
        ("#/success_url", "success_url", "string_type"),
        ("#/cancel_url", "cancel_url", "missing"),
        ("#/quantity", "quantity", "less_than_equal"),
        ("#/surprise~1~0", "surprise/~", "extra_forbidden"),
    }


async def test_a_query_parameter_at_fault_is_named(client: httpx.AsyncClient, ada: Bearer) -> None:
    for query in ("limit=0", "limit=101", "limit=many", "limit=" + "9" * 50):
        problem = problem_of(await client.get(f"{API}/invoices?{query}", headers=ada), 422, "invalid_request")
        errors = problem["errors"]
        assert isinstance(errors, list)
        assert errors[0]["param"] == "limit"
        assert "pointer" not in errors[0]


async def test_text_that_postgres_cannot_store_is_refused(client: httpx.AsyncClient, ada: Bearer) -> None:
    for bad in ("a\\u0000b", "\\ud800"):
        body = f'{{"plan": "{bad}", "success_url": "x", "cancel_url": "x"}}'
        headers = ada | {"Content-Type": "application/json"}
        problem_of(await client.post(CHECKOUT, content=body, headers=headers), 422, "invalid_request")
    for path in ("invoices?starting_after=a%00b", "checkout/session/cs_%00", "portal?return_url=%00"):
        problem_of(await client.get(f"{API}/{path}", headers=ada), 422, "unstorable_text")


async def test_a_bug_says_nothing_but_the_request_id(failing: httpx.AsyncClient) -> None:
    response = await failing.get("/fail/bug", headers={"X-Request-ID": "ask-me"})
    problem = problem_of(response, 500, "internal_error")
    assert problem["request_id"] == "ask-me"
    assert problem["retryable"] is False
    assert SECRET not in response.text
    assert "RuntimeError" not in response.text


async def test_a_declined_card_tells_why(failing: httpx.AsyncClient) -> None:
    problem = problem_of(await failing.get("/fail/card"), 402, "payment_failed")
    assert problem["decline_code"] == "insufficient_funds"
    assert problem["stripe_code"] == "card_declined"
    assert problem["stripe_request_id"] == "req_1"


async def test_stripes_troubles_keep_apart(failing: httpx.AsyncClient) -> None:
    limited = await failing.get("/fail/stripe_limit")
    assert problem_of(limited, 429, "rate_limited")["retryable"] is True
    assert limited.headers["retry-after"] == "7"
    away = await failing.get("/fail/stripe_away")
    assert problem_of(away, 503, "unavailable")["retryable"] is True
    assert int(away.headers["retry-after"]) > 0
    assert problem_of(await failing.get("/fail/stripe_key"), 502, "provider_error")["retryable"] is False


async def test_a_connection_that_breaks_in_mid_request_can_be_retried(failing: httpx.AsyncClient) -> None:
    response = await failing.get("/fail/connection")
    assert problem_of(response, 503, "unavailable")["retryable"] is True
    assert "retry-after" in response.headers


async def test_a_commit_that_fails_is_not_answered_as_success(failing: httpx.AsyncClient) -> None:
    assert (await failing.get("/collide")).status_code == 200
    assert problem_of(await failing.get("/collide"), 409, "raced")["retryable"] is True


async def test_without_postgres_requests_can_be_retried(
    quiet: Settings, provider: BillingProvider, ada: Bearer
) -> None:
    for address in ("billhook@/billhook?host=/nowhere&port=5432", "billhook@127.0.0.1:1/billhook"):
        database_url = type(quiet.database_url)(f"postgresql+asyncpg://{address}")
        app = create_app(quiet.model_copy(update={"database_url": database_url}), provider=provider)
        async with serving(app) as client:
            assert (await client.get(f"{API}/plans")).status_code == 200
            response = await client.get(f"{API}/subscription", headers=ada)
            assert problem_of(response, 503, "unavailable")["retryable"] is True
            key = ada | {"Idempotency-Key": "k"}
            problem_of(await client.post(f"{API}/subscription/resume", headers=key), 503, "unavailable")
