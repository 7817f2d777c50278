"""Postgres and Valkey crashing, coming back, or being held up, under load: Billhook goes on by itself."""

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from billing import Account
from chaos import crowd, promises
from chaos.forks import Billhook
from chaos.inbox import nothing_waits, stored
from chaos.load import Load, post
from sqlalchemy import text

from app.db import create_engine, create_sessions
from app.embedded import PostgresServer, ValkeyServer
from app.provider.stripe import StripeProvider
from app.redis import create_redis
from app.sandbox.sandbox import Sandbox
from app.services.catalog import Catalog

BACK_SECONDS = 3
"""How soon after its database a Billhook takes events again."""
LOCKED_SECONDS = 6  # longer than the receiver waits


@pytest.fixture
async def account(
    own_postgres: PostgresServer, own_valkey: ValkeyServer, provider: StripeProvider, sandbox: Sandbox, catalog: Catalog
) -> AsyncIterator[Account]:
    """As everywhere, but on servers that may be crashed."""
    sandbox.hold_deliveries()
    engine, redis = create_engine(own_postgres.url, pool_size=2), create_redis(own_valkey.url)
    account = Account(create_sessions(engine), redis, provider, sandbox, catalog)
    await account.apply_plans()
    yield account
    await redis.aclose()
    await engine.dispose()


@pytest.fixture
async def url(billhook: Billhook, own_postgres: PostgresServer, own_valkey: ValkeyServer) -> AsyncIterator[str]:
    """A `billhook serve` on those servers."""
    billhook.env |= {"DATABASE_URL": own_postgres.url, "REDIS_URL": own_valkey.url}
    async with billhook.serving() as (_, url):
        yield url


@pytest.fixture
def events(account: Account) -> list[dict[str, Any]]:
    several = [crowd.subscribe(account, f"user-{n}", quantities=(2, 3)) for n in range(25)]
    return [event for together in zip(*several, strict=True) for event in together]


async def some_answers(load: Load, most: int) -> None:
    """Wait until the load is well under way."""
    async with asyncio.timeout(20):
        while load.answers.total() < most:  # noqa: ASYNC110 - a load tells nobody how far it is
            await asyncio.sleep(0.005)


async def first_success(url: str, event: dict[str, Any]) -> None:
    async with httpx.AsyncClient() as client:
        while not (await post(client, event, base_url=url)).is_success:  # noqa: ASYNC110 - asking is what is tested
            await asyncio.sleep(0.05)


async def test_postgres_crashes_and_comes_back_under_load(
    account: Account, url: str, own_postgres: PostgresServer, events: list[dict[str, Any]], monkeypatch: Any
) -> None:
    monkeypatch.setattr(own_postgres, "stop_signal", signal.SIGQUIT)  # "immediate": nothing is ended in good order
    last, *events = events
    load = Load([url], connections=16)
    sending = asyncio.create_task(load.send(events))
    await some_answers(load, 100)
    await asyncio.to_thread(own_postgres.stop)
    while not load.answers[503]:  # noqa: ASYNC110 - a load tells nobody how far it is
        await asyncio.sleep(0.01)
    own_postgres.start()
    async with asyncio.timeout(BACK_SECONDS):
        await first_success(url, last)
    await sending
    assert set(load.answers) == {200, 503}
    assert load.acknowledged <= await stored(account)
    await nothing_waits(account)
    assert await promises.broken(account, [last, *events]) == []


async def test_a_table_that_is_locked_for_long_delays_and_loses_nothing(
    account: Account, url: str, events: list[dict[str, Any]]
) -> None:
    load = Load([url], connections=16)
    async with account.sessions() as session:
        await session.execute(text("LOCK TABLE stripe_events IN ACCESS EXCLUSIVE MODE"))
        sending = asyncio.create_task(load.send(events))
        await asyncio.sleep(LOCKED_SECONDS)
        assert set(load.answers) == {503}
    async with asyncio.timeout(BACK_SECONDS):
        await first_success(url, events[-1])
    await sending
    assert load.acknowledged <= await stored(account)
    await nothing_waits(account)
    assert await promises.broken(account, events) == []


async def test_valkey_is_emptied_crashes_and_comes_back_under_load_and_nobody_is_refused(
    account: Account, url: str, own_valkey: ValkeyServer, events: list[dict[str, Any]], monkeypatch: Any
) -> None:
    monkeypatch.setattr(own_valkey, "stop_signal", signal.SIGKILL)
    load = Load([url], connections=8, copies=2)
    sending = asyncio.create_task(load.send(events))
    for most in (100, 200, 300):
        await some_answers(load, most)
        await account.redis.flushall()
    await asyncio.to_thread(own_valkey.stop)
    await some_answers(load, 600)
    own_valkey.start()
    await sending
    assert set(load.answers) == {200}
    await nothing_waits(account)
    assert await promises.broken(account, events) == []
