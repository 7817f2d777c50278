"""A worker that stands still with customers in its hands keeps these waiting, and nobody else."""

import asyncio
import json

import pytest
from billing import Account
from chaos import crowd
from chaos.inbox import nothing_waits, waiting
from sqlalchemy import text

from app.worker.batch import KEYS
from app.worker.dispatcher import Dispatcher

CUSTOMERS = 300
HELD = 2 * KEYS

FILL = text(
    """
    INSERT INTO stripe_events (event_id, type, key, created, livemode, payload, next_attempt_at)
    SELECT 'evt_' || n, 'customer.created', 'cus_' || n, :created, false,
           replace(replace(replace(:payload, 'THE_EVENT', 'evt_' || n), :customer, 'cus_' || n), 'THE_USER', 'u' || n),
           now() - interval '1 hour' + n * interval '1 second'
      FROM generate_series(1, :customers) AS n
    """
)
HOLD = text("SELECT pg_advisory_xact_lock(hashtextextended('cus_' || n, 0)) FROM generate_series(1, :held) AS n")


@pytest.fixture
async def customers(account: Account) -> None:
    """Many new ones, each with an event that is due."""
    created, *_ = crowd.subscribe(account, "THE_USER")
    told = {"payload": json.dumps({**created, "id": "THE_EVENT"}), "customer": created["data"]["object"]["id"]}
    async with account.sessions.begin() as session:
        await session.execute(FILL, {**told, "created": created["created"], "customers": CUSTOMERS})


@pytest.mark.usefixtures("customers")
async def test_who_waits_longest_but_is_held_by_a_frozen_worker_holds_up_nobody_else(account: Account) -> None:
    dispatcher = Dispatcher(account.inbox, asyncio.Event(), concurrency=4, poll_seconds=0.5)
    async with account.sessions() as frozen:
        await frozen.execute(HOLD, {"held": HELD})
        running = asyncio.create_task(dispatcher.run())
        try:
            async with asyncio.timeout(20):
                while await waiting(account) > HELD:  # noqa: ASYNC110 - see nothing_waits
                    await asyncio.sleep(0.02)
            assert await waiting(account) == HELD
            await frozen.rollback()
            await nothing_waits(account)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
