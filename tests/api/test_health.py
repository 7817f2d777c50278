"""Health, readiness and metrics."""

import asyncio

import httpx
import pytest
from pydantic import SecretStr
from serving import API, PROBLEM, Bearer, bearer, serving
from sqlalchemy import text

from app.api import health
from app.db import Sessions, transaction
from app.embedded import start_valkey
from app.main import create_app
from app.provider.protocol import BillingProvider
from app.services.catalog import Credits
from app.services.credits import accounts
from app.services.credits.accounts import Identity
from app.settings import Settings
from app.values import unix_now


async def test_everything_there_is_ready(client: httpx.AsyncClient) -> None:
    for path in ("/readyz", "/health"):
        response = await client.get(path)
        assert response.status_code == 200
        assert response.json() == {"status": "ok", "version": "0.1.0", "postgres": "ok", "redis": "ok"}


@pytest.fixture
def gone(tmp_path_factory: pytest.TempPathFactory) -> SecretStr:
    """The address of a Valkey that has just gone."""
    with start_valkey(tmp_path_factory.mktemp("valkey"), durable=False) as server:
        return SecretStr(server.url)


async def test_without_redis_it_is_ready_but_degraded(
    quiet: Settings, provider: BillingProvider, gone: SecretStr
) -> None:
    settings = quiet.model_copy(update={"redis_url": gone})
    async with serving(create_app(settings, provider=provider)) as client:
        response = await client.get("/readyz")
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["redis"]) == ("degraded", "away")


async def test_without_postgres_it_lives_but_is_not_ready(quiet: Settings, provider: BillingProvider) -> None:
    nowhere = SecretStr("postgresql+asyncpg://billhook@/billhook?host=/nowhere&port=5432")
    async with serving(create_app(quiet.model_copy(update={"database_url": nowhere}), provider=provider)) as client:
        assert (await client.get("/healthz")).status_code == 200
        response = await client.get("/readyz")
    assert (response.status_code, response.headers["content-type"]) == (503, PROBLEM)
    assert response.json()["code"] == "postgres_unavailable"


async def test_before_the_migrations_it_is_not_ready(client: httpx.AsyncClient, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await session.execute(text("DROP TABLE alembic_version"))
    response = await client.get("/readyz")
    assert (response.status_code, response.json()["code"]) == (503, "not_migrated")


async def test_a_newer_release_s_schema_does_not_put_this_one_out_of_service(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    async with sessions.begin() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = 'of the next release'"))
    assert (await client.get("/readyz")).status_code == 200


@pytest.fixture
async def hers(sessions: Sessions) -> None:
    """Ada has an account of prepaid credits."""
    async with transaction(sessions) as session:
        await accounts.ensure(session, Credits(), Identity(user_id="ada"), unix_now())


@pytest.mark.usefixtures("hers")
async def test_a_deep_look_finds_wrong_books(client: httpx.AsyncClient, sessions: Sessions) -> None:
    for path, seen in (("/readyz?deep=1", {"credits": "ok"}), ("/readyz?deep=0", {})):
        response = await client.get(path)
        whole = {"status": "ok", "version": "0.1.0", "postgres": "ok", "redis": "ok", **seen}
        assert (response.status_code, response.json()) == (200, whole)
    async with sessions.begin() as session:
        await session.execute(text("UPDATE credit_accounts SET used = 1"))
    response = await client.get("/readyz?deep=1")
    assert (response.status_code, response.json()["code"]) == (503, "credits_inconsistent")
    assert "(consumed, for one)" in response.json()["detail"]
    assert (await client.get("/readyz")).status_code == 200


@pytest.mark.usefixtures("hers")
async def test_a_deep_look_that_would_last_is_given_up(
    client: httpx.AsyncClient, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "DEEP_SECONDS", 1)
    async with sessions.begin() as session:
        await session.execute(text("LOCK TABLE credit_transfers IN ACCESS EXCLUSIVE MODE"))
        first, second = await asyncio.gather(client.get("/readyz?deep=1"), client.get("/readyz?deep=1"))
    for response in (first, second):
        assert response.status_code == 200
        assert (response.json()["status"], response.json()["credits"]) == ("degraded", "unchecked")
    assert (await client.get("/readyz?deep=1")).json()["credits"] == "ok"


async def test_metrics_count_by_route_and_never_by_path(client: httpx.AsyncClient, ada: Bearer) -> None:
    await client.get(f"{API}/checkout/session/cs_test_of_somebody", headers=ada)
    await client.get("/nowhere/at/all")
    await client.request("BREW", "/nowhere/at/all")
    await client.post(f"{API}/webhook", content=b"{}")
    await client.get("/static/docs/docs.js")
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    for labels in (
        f'method="GET",route="{API}/checkout/session/{{session_id}}",status="404"',
        'method="GET",route="unmatched",status="404"',
        'method="other",route="unmatched",status="404"',
        f'method="POST",route="{API}/webhook",status="400"',
        'method="GET",route="/static",status="200"',
    ):
        assert f"billing_http_requests_total{{{labels}}}" in response.text
    assert "cs_test_of_somebody" not in response.text
    assert "/nowhere" not in response.text
    assert 'billing_webhook_events_received_total{outcome="refused",type="other"}' in response.text


async def test_metrics_ask_for_their_token_where_one_is_set(quiet: Settings, provider: BillingProvider) -> None:
    settings = quiet.model_copy(update={"metrics_token": SecretStr("let-me-see")})
    async with serving(create_app(settings, provider=provider)) as client:
        for header in ("", "Bearer guess", "let-me-see", "Bearer \xe9"):
            response = await client.get("/metrics", headers={b"Authorization": header.encode("latin-1")})
            assert (response.status_code, response.headers["content-type"]) == (401, PROBLEM)
        assert (await client.get("/metrics", headers=bearer("let-me-see"))).status_code == 200


async def test_the_caller_is_told_when_everything_is_open(quiet: Settings, provider: BillingProvider) -> None:
    told: list[str] = []
    app = create_app(quiet, provider=provider, ready=lambda: told.append("ready"))
    assert told == []
    async with serving(app) as client:
        assert told == ["ready"]
        assert (await client.get("/readyz")).status_code == 200
    assert told == ["ready"]
