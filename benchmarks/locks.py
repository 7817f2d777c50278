"""What the Redis lock per customer saves: two workers over the same customers, with Redis and without.

.venv/bin/python benchmarks/locks.py [--customers 200] [--latency 0.3] [--per-second 20] [--rounds 3]
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from redis.asyncio import Redis
from sqlalchemy import text
from typing_extensions import override

from app.db import Sessions, create_engine, create_sessions
from app.embedded import start_postgres, start_valkey
from app.migrate import upgrade
from app.provider.stripe import StripeProvider
from app.provider.throttle import Throttle
from app.redis import create_redis
from app.sandbox.app import create_sandbox
from app.worker.dispatcher import Dispatcher
from app.worker.inbox import Inbox

KEY = "sk_test_billhook"
URL = "http://sandbox"
WORKERS = 2
CONCURRENCY = 4  # customers that a worker does at once, as WORKER_CONCURRENCY by default

WAITING = text("SELECT 1 FROM stripe_events WHERE status <> 'processed' LIMIT 1")
STORE = text("""
INSERT INTO stripe_events (event_id, type, key, created, livemode, payload)
VALUES (:id, :type, :key, :created, false, :payload)
""")


class FarStripe(httpx.AsyncBaseTransport):
    """The sandbox, as far away as Stripe is; counts what is asked."""

    def __init__(self, sandbox: Any, latency: float) -> None:
        self._sandbox = httpx.ASGITransport(sandbox)
        self._latency = latency
        self.asked = 0

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        await asyncio.sleep(self._latency)
        return await self._sandbox.handle_async_request(request)


async def subscribe(sandbox: Any, customers: int) -> list[dict[str, Any]]:
    """Customers with a subscription each; answers with what Stripe tells of them, oldest first."""
    transport = httpx.ASGITransport(sandbox)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(transport=transport, base_url=f"{URL}/v1/", headers=headers) as client:

        async def post(path: str, **fields: str) -> str:
            answer = await client.post(path, data=fields)
            return str(answer.raise_for_status().json()["id"])

        product = await post("products", name="Pro")
        price = await post(
            "prices", product=product, currency="usd", unit_amount="9900", **{"recurring[interval]": "month"}
        )
        for number in range(customers):
            card = {"payment_method": "pm_card_visa", "invoice_settings[default_payment_method]": "pm_card_visa"}
            customer = await post("customers", name=f"Customer {number}", **card)
            await post("subscriptions", customer=customer, **{"items[0][price]": price})
    shown = [sandbox.state.sandbox.shown(row) for row in sandbox.state.sandbox.rows("event")]
    return [event for event in shown if event["type"] in {"customer.created", "customer.subscription.created"}]


async def store(sessions: Sessions, events: Sequence[dict[str, Any]]) -> None:
    rows = [
        {
            "id": event["id"],
            "type": event["type"],
            "key": event["data"]["object"].get("customer", event["data"]["object"]["id"]),
            "created": event["created"],
            "payload": json.dumps(event),
        }
        for event in events
    ]
    async with sessions.begin() as session:
        await session.execute(STORE, rows)


def unclear(events: Sequence[dict[str, Any]], mark: str) -> list[dict[str, Any]]:
    """Events of the second that our rows are from, which say something else: Stripe has to be asked."""
    return [
        {
            **event,
            "id": f"{event['id']}_{mark}",
            "data": {"object": {**event["data"]["object"], "metadata": {"a": mark}}},
        }
        for event in events
        if event["type"] == "customer.subscription.created"
    ]


async def work(postgres: str, redis: Redis, provider: StripeProvider) -> float:
    """Apply everything that waits; answers how many seconds that took."""
    async with AsyncExitStack() as stack:
        started = time.perf_counter()
        for _ in range(WORKERS):
            await stack.enter_async_context(working(postgres, redis, provider))
        sessions = await stack.enter_async_context(connected(postgres))
        waiting = True
        while waiting:
            await asyncio.sleep(0.02)
            async with sessions() as session:
                waiting = await session.scalar(WAITING) is not None
        return time.perf_counter() - started


@asynccontextmanager
async def working(postgres: str, redis: Redis, provider: StripeProvider) -> AsyncIterator[None]:
    """A worker with connections of its own, as each process has them."""
    async with connected(postgres) as sessions:
        inbox = Inbox(sessions=sessions, redis=redis, provider=provider, max_attempts=12)
        dispatcher = Dispatcher(inbox, asyncio.Event(), concurrency=CONCURRENCY, poll_seconds=0.2)
        task = asyncio.create_task(dispatcher.run())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def connected(postgres: str) -> AsyncIterator[Sessions]:
    engine = create_engine(postgres, pool_size=10)
    yield create_sessions(engine)
    await engine.dispose()


async def measure(postgres: str, valkey: str, *, customers: int, latency: float, per_second: int, rounds: int) -> None:
    sandbox = create_sandbox(secret_key=KEY, base_url=URL)
    sandbox.state.sandbox.hold_deliveries()
    stripe = FarStripe(sandbox, latency)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(sandbox.state.sandbox.aclose)
        there = await stack.enter_async_context(create_redis(valkey))
        nowhere = await stack.enter_async_context(create_redis("unix:///nowhere"))
        throttle = Throttle(there, per_second=per_second)
        provider = await stack.enter_async_context(
            StripeProvider(KEY, base_url=URL, transport=stripe, throttle=throttle)
        )
        sessions = await stack.enter_async_context(connected(postgres))
        events = await subscribe(sandbox, customers)
        await store(sessions, events)
        await work(postgres, there, provider)
        print(f"{WORKERS} workers, {customers} customers about each of whom Stripe must be asked once,")
        print(f"{latency * 1000:.0f} ms away, {per_second} requests a second; medians of {rounds} rounds")
        for name, client in (("with Redis", there), ("without", nowhere)):
            requests, seconds = [], []
            for number in range(rounds):
                await store(sessions, unclear(events, f"{name}_{number}"))
                asked = stripe.asked
                seconds.append(await work(postgres, client, provider))
                requests.append(stripe.asked - asked)
            print(f"{name:10}{statistics.median(requests):6.0f} requests{statistics.median(seconds):8.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--customers", type=int, default=200)
    parser.add_argument("--latency", type=float, default=0.3, help="seconds until Stripe answers")
    parser.add_argument("--per-second", type=int, default=20, help="requests that Stripe may be asked")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        postgres = stack.enter_context(start_postgres(Path(directory) / "postgres", durable=False))
        valkey = stack.enter_context(start_valkey(Path(directory) / "valkey", durable=False))
        upgrade(postgres.url)
        asyncio.run(measure(postgres.url, valkey.url, **vars(options)))


if __name__ == "__main__":
    main()
