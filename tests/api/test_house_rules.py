"""Rules that every route must keep, also those nobody has written yet."""

from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from serving import API, PROBLEM, Bearer, bearer, serving

from app.main import create_app
from app.provider.protocol import BillingProvider
from app.settings import Settings

PUBLIC = {
    ("GET", f"{API}/plans"),
    ("GET", f"{API}/packs"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    # Stripe signs instead.
    ("POST", f"{API}/webhook"),
    ("POST", f"{API}/webhooks/stripe"),
    ("POST", "/webhooks/stripe"),
}
MOUNTED = {"/static"}


@pytest.fixture
def app(quiet: Settings, provider: BillingProvider) -> FastAPI:
    """As in production: without the demo storefront."""
    return create_app(quiet.model_copy(update={"stripe_api_base": None}), provider=provider)


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    for context in iter_route_contexts(app.routes):
        if context.path in MOUNTED:
            continue
        assert context.path, context
        assert context.methods, context
        for method in context.methods:
            if method != "HEAD":
                yield method, context.path.replace("{session_id}", "cs_1")


async def test_every_route_asks_who_is_calling_or_is_on_the_public_list(app: FastAPI) -> None:
    found = set(routes(app))
    assert found >= PUBLIC
    assert len(found - PUBLIC) > 10
    async with serving(app) as client:
        for method, path in sorted(found - PUBLIC):
            response = await client.request(method, path)
            assert response.status_code == 401, (method, path)
            assert response.headers["content-type"] == PROBLEM
            assert response.headers["www-authenticate"] == "Bearer"


async def test_every_route_answers_a_wrong_method_and_a_giant_body_with_a_problem(app: FastAPI) -> None:
    async with serving(app) as client:
        for method, path in sorted(routes(app)):
            wrong = await client.request("BREW", path)
            assert (wrong.status_code, wrong.headers["content-type"]) == (405, PROBLEM), path
            giant = await client.request(method, path, content=b" " * (1024 * 1024 + 1))
            assert (giant.status_code, giant.headers["content-type"]) == (413, PROBLEM), path


async def test_every_route_that_needs_postgres_says_503_without_it(
    quiet: Settings, provider: BillingProvider, ada: Bearer
) -> None:
    nowhere = type(quiet.database_url)("postgresql+asyncpg://billhook@/billhook?host=/nowhere&port=5432")
    app = create_app(quiet.model_copy(update={"database_url": nowhere, "stripe_api_base": None}), provider=provider)
    bodies = {
        f"{API}/checkout/session": {"plan": "pro", "success_url": URL, "cancel_url": URL},
        f"{API}/portal": {"return_url": URL},
        f"{API}/entitlements/check": {"feature": "sso"},
    }
    key = bearer("bk_000000000000000000000000000iGMvM2")  # its checksum is right
    async with serving(app) as client:
        for method, path in sorted(set(routes(app)) - PUBLIC):
            response = await answer(client, method, path, ada, bodies.get(path))
            if response.status_code == 403:  # it is for service keys, and a key is looked up first of all
                response = await answer(client, method, path, key, bodies.get(path))
            if response.status_code == 422:  # it wants an Idempotency-Key, which is claimed before anything is read
                response = await answer(client, method, path, {**ada, "Idempotency-Key": "1"}, bodies.get(path))
            assert (response.status_code, response.headers["content-type"]) == (503, PROBLEM), (method, path)
            assert response.json()["retryable"] is True


URL = "https://app.example.com/"


async def answer(
    client: httpx.AsyncClient, method: str, path: str, caller: Bearer, body: dict[str, str] | None
) -> httpx.Response:
    if method == "GET":
        return await client.get(path, params=body if path.endswith("/portal") else None, headers=caller)
    return await client.request(method, path, json=body or {}, headers=caller)
