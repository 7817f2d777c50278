"""How much and how often: bodies and rates."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from redis.asyncio import Redis
from serving import API, PROBLEM, Bearer, CreateKey, serving

from app.api.ratelimit import PREFIX, WINDOW_SECONDS, RateLimiter
from app.embedded import start_valkey
from app.main import create_app
from app.provider.protocol import BillingProvider
from app.settings import Settings

LIMIT = 5
KIB = 1024


@pytest.fixture
def strict(quiet: Settings) -> Settings:
    return quiet.model_copy(update={"rate_limit_per_minute": LIMIT})


@pytest.fixture
async def limited(strict: Settings, provider: BillingProvider) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(strict, provider=provider)) as client:
        yield client


async def test_a_caller_is_told_what_is_left_and_then_to_wait(limited: httpx.AsyncClient, ada: Bearer) -> None:
    for left in reversed(range(LIMIT)):
        response = await limited.get(f"{API}/subscription/status", headers=ada)
        assert response.status_code == 200
        assert response.headers["ratelimit-policy"] == f'"default";q={LIMIT};w=60'
        assert response.headers["ratelimit"].startswith(f'"default";r={left};t=')
    response = await limited.get(f"{API}/subscription/status", headers=ada)
    assert response.status_code == 429
    assert response.headers["content-type"] == PROBLEM
    assert response.headers["ratelimit"].startswith('"default";r=0;t=')
    assert 1 <= int(response.headers["retry-after"]) <= 60
    problem = response.json()
    assert (problem["code"], problem["retryable"]) == ("rate_limited", True)


async def test_one_callers_haste_costs_no_other(limited: httpx.AsyncClient, ada: Bearer, grace: Bearer) -> None:
    for _ in range(LIMIT + 1):
        response = await limited.get(f"{API}/plans", headers=ada)
    assert response.status_code == 429
    assert (await limited.get(f"{API}/plans", headers=grace)).status_code == 200
    assert (await limited.get(f"{API}/plans")).status_code == 200


async def test_what_was_asked_before_fades(limited: httpx.AsyncClient, redis: Redis, ada: Bearer) -> None:
    async def ask(*, later: float) -> tuple[int, str, int]:
        """With the window moved back by so many seconds."""
        if later:
            began = float(await redis.hget(f"{PREFIX}user:ada", "began") or 0)
            await redis.hset(f"{PREFIX}user:ada", "began", str(began - later))
        response = await limited.get(f"{API}/plans", headers=ada)
        left, _, reset = response.headers["ratelimit"].removeprefix('"default";r=').partition(";t=")
        return response.status_code, left, int(reset)

    for left in reversed(range(LIMIT)):
        assert (await ask(later=0))[:2] == (200, str(left))
    status, _, reset = await ask(later=40)
    assert (status, reset <= 20) == (429, True)
    # Nearly 30 seconds of the window before still count: two of its five.
    status, left_over, reset = await ask(later=50)
    assert (status, left_over) == (200, "2")
    assert 0 < reset <= 12
    assert (await ask(later=150))[:2] == (200, str(LIMIT - 1))
    assert 0 < await redis.ttl(f"{PREFIX}user:ada") <= 2 * WINDOW_SECONDS


async def test_of_many_at_once_as_many_are_allowed_as_of_one_by_one(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = RateLimiter(redis, per_minute=LIMIT, per_minute_for_keys=100)
    given_up = limiter.count("user:ada")
    given_up.cancel()
    windows = await asyncio.gather(*(limiter.count("user:ada") for _ in range(20)))
    assert sum(window is not None and window.allowed for window in windows) == LIMIT - 1
    others = await asyncio.gather(*(limiter.count(caller) for caller in ("user:grace", "key:1", "key:1")))
    assert [(window.allowed, window.limit, window.remaining) for window in others if window] == [
        *((True, LIMIT, LIMIT - 1), (True, 100, 98), (True, 100, 98))
    ]
    # Whatever becomes of Redis, nobody waits for ever.
    monkeypatch.setattr(redis.connection_pool, "get_connection", None)
    assert await asyncio.gather(*(limiter.count("user:ada") for _ in range(3))) == [None] * 3
    assert await limiter.count("user:grace") is None


async def test_guessing_tokens_is_limited_by_address(limited: httpx.AsyncClient) -> None:
    statuses = [
        (await limited.get(f"{API}/plans", headers={"Authorization": f"Bearer guess-{number}"})).status_code
        for number in range(LIMIT + 1)
    ]
    assert statuses == [200] * LIMIT + [429]


async def test_no_route_of_the_api_is_forgotten(strict: Settings, provider: BillingProvider, ada: Bearer) -> None:
    app = create_app(strict.model_copy(update={"rate_limit_per_minute": 1}), provider=provider)
    paths = {context.path for context in iter_route_contexts(app.routes) if context.path}
    api = {path for path in paths if path.startswith(API) and "/webhook" not in path}
    assert len(api) > 10
    async with serving(app) as client:
        await client.get(f"{API}/plans", headers=ada)
        for path in api:
            assert (await client.get(path, headers=ada)).status_code == 429, path


async def test_stripe_and_health_checks_are_never_limited(limited: httpx.AsyncClient) -> None:
    for _ in range(LIMIT + 1):
        assert (await limited.post(f"{API}/webhook", content=b"{}")).status_code == 400
        assert (await limited.get("/healthz")).status_code == 200


@pytest.fixture
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a Valkey that has just gone."""
    with start_valkey(tmp_path_factory.mktemp("valkey"), durable=False) as server:
        return server.url


async def test_without_redis_nobody_is_limited(
    strict: Settings, provider: BillingProvider, own_valkey: str, ada: Bearer
) -> None:
    settings = strict.model_copy(update={"redis_url": type(strict.redis_url)(own_valkey)})
    async with serving(create_app(settings, provider=provider)) as client:
        for _ in range(LIMIT + 1):
            response = await client.get(f"{API}/subscription/status", headers=ada)
            assert response.status_code == 200
            assert "ratelimit" not in response.headers


async def chunks(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // KIB):
        yield b" " * KIB


@pytest.mark.parametrize(
    ("path", "limit"), [("subscription/cancel", 64 * KIB), ("webhook", KIB * KIB), ("webhooks/stripe", KIB * KIB)]
)
async def test_a_body_beyond_the_limit_is_refused_announced_or_not(
    client: httpx.AsyncClient, ada: Bearer, path: str, limit: int
) -> None:
    headers = ada | {"Content-Type": "application/json"}
    for content in (b" " * (limit + 1), chunks(limit + KIB)):
        response = await client.post(f"{API}/{path}", content=content, headers=headers)
        assert response.status_code == 413
        assert response.headers["content-type"] == PROBLEM
        assert response.json()["code"] == "body_too_large"
    for fitting in (b" " * limit, chunks(limit)):
        response = await client.post(f"{API}/{path}", content=fitting, headers=headers)
        assert response.status_code == 400


async def test_a_giant_body_is_refused_where_nothing_reads_it(client: httpx.AsyncClient) -> None:
    response = await client.post("/nowhere", content=b" " * (64 * KIB + 1))
    assert (response.status_code, response.headers["content-type"]) == (413, PROBLEM)


async def test_a_backend_may_ask_more_often_than_a_user(
    strict: Settings, provider: BillingProvider, create_key: CreateKey, ada: Bearer
) -> None:
    key = await create_key("billing:read")
    async with serving(create_app(strict, provider=provider)) as client:
        url = f"{API}/subscription/status"
        users = [(await client.get(url, headers=ada)).status_code for _ in range(LIMIT + 1)]
        keys = [(await client.get(url, headers=key, params={"user_id": "ada"})).status_code for _ in range(LIMIT + 1)]
    assert users == [200] * LIMIT + [429]
    assert keys == [200] * (LIMIT + 1)
