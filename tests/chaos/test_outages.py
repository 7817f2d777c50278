"""Postgres and Valkey away, and a process killed: nothing acknowledged is lost, nothing is done by half."""

import asyncio
import signal
from pathlib import Path

import httpx
import pytest
from billing import Account
from chaos.forks import Billhook
from chaos.load import post
from processes import running_server
from serving import PROBLEM, serving
from sqlalchemy import select

from app import models
from app.db import create_engine, create_sessions
from app.embedded import PostgresServer, ValkeyServer
from app.main import create_app
from app.settings import Settings


async def statuses(url: str) -> dict[str, str]:
    engine = create_engine(url, pool_size=1)
    try:
        async with create_sessions(engine)() as session:
            rows = await session.execute(select(models.StripeEvent.event_id, models.StripeEvent.status))
            return {row.event_id: row.status for row in rows}
    finally:
        await engine.dispose()


async def eventually(url: str, wanted: dict[str, str], *, seconds: float = 20) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while (found := await statuses(url)) != wanted:
        assert asyncio.get_running_loop().time() < deadline, found
        await asyncio.sleep(0.05)


async def test_a_server_killed_between_receipt_and_processing_loses_nothing(
    account: Account, billhook: Billhook, tmp_path: Path
) -> None:
    await account.buy(plan="pro")
    events = account.events("customer.subscription.created", "invoice.paid")
    env = billhook.env
    url = env["DATABASE_URL"]
    with running_server(env, tmp_path, "--no-worker") as (process, address):
        async with httpx.AsyncClient(base_url=address) as client:
            assert [(await post(client, event)).status_code for event in events] == [200, 200]
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert set((await statuses(url)).values()) == {"pending"}
    with running_server(env, tmp_path):
        await eventually(url, {event["id"]: "processed" for event in events})
    [subscription] = await account.all(models.Subscription)
    assert (subscription.status, subscription.plan) == ("active", "pro")


@pytest.fixture
def settings_of_own(settings: Settings, own_postgres: PostgresServer, own_valkey: ValkeyServer) -> Settings:
    return Settings(
        _env_file=None,
        **settings.model_dump() | {"database_url": own_postgres.url, "redis_url": own_valkey.url},
    )


async def test_without_postgres_the_answer_is_503_and_afterwards_all_goes_on(
    account: Account, settings_of_own: Settings, own_postgres: PostgresServer
) -> None:
    await account.buy(plan="pro")
    first, second = account.events("customer.subscription.created", "invoice.paid")
    async with serving(create_app(settings_of_own, provider=account.provider)) as client:
        assert (await post(client, first)).status_code == 200
        await eventually(own_postgres.url, {first["id"]: "processed"})
        own_postgres.stop()
        refused = await post(client, second)
        assert (refused.status_code, refused.headers["content-type"]) == (503, PROBLEM)
        assert refused.json()["retryable"] is True
        assert int(refused.headers["retry-after"]) > 0
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
        own_postgres.start()
        assert (await post(client, second)).status_code == 200
        await eventually(own_postgres.url, {first["id"]: "processed", second["id"]: "processed"})
        assert (await client.get("/readyz")).status_code == 200


async def test_without_valkey_everything_stays_right(
    account: Account, settings_of_own: Settings, own_postgres: PostgresServer, own_valkey: ValkeyServer
) -> None:
    await account.buy(plan="pro")
    first, second = account.events("customer.subscription.created", "invoice.paid")
    async with serving(create_app(settings_of_own, provider=account.provider)) as client:
        assert (await post(client, first)).json()["outcome"] == "stored"
        own_valkey.stop()
        again = await asyncio.gather(*(post(client, event) for event in (first, second) * 10))
        assert {answer.status_code for answer in again} == {200}
        await eventually(own_postgres.url, {first["id"]: "processed", second["id"]: "processed"})
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        own_valkey.start()
        assert (await client.get("/readyz")).json()["status"] != "degraded"
