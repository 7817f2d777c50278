"""However many, or however large, the events of some customers are that wait: they hold up nobody else."""

import asyncio
import json
from collections import Counter

import pytest
from billing import Account
from chaos import crowd
from chaos.forks import Billhook
from chaos.inbox import waiting
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app import models
from app.worker.batch import KEYS

QUEUE = 20_000
OTHERS = 60
LARGE = 45_000  # bytes of an event

POISON = text(
    """
    INSERT INTO stripe_events (event_id, type, key, created, livemode, payload, next_attempt_at)
    VALUES ('evt_poison', 'customer.updated', :key, 1, false, '{"object": "event", "data": ', now() - interval '1 day')
    """
)
FILL = text(
    """
    INSERT INTO stripe_events (event_id, type, key, created, livemode, payload, next_attempt_at)
    SELECT :prefix || n, 'customer.updated', :key, CAST(:created AS bigint) + n, false,
           replace(replace(:payload, 'THE_EVENT', :prefix || n), '1234567890', (:created + n)::text),
           now() - interval '1 hour' + n * interval '1 millisecond'
      FROM generate_series(1, :queue) AS n
    """
)


@pytest.fixture
async def busy(account: Account) -> str:
    """The customer with the long queue, whose first event can't even be read."""
    key = await fill(account, "busy", QUEUE)
    async with account.sessions.begin() as session:
        await session.execute(POISON, {"key": key})
    return key


async def fill(account: Account, user_id: str, events: int, *, padding: int = 0) -> str:
    """Have as many events of a new customer, each with as many bytes of padding, wait for an hour already."""
    created, *_ = crowd.subscribe(account, user_id)
    key: str = created["data"]["object"]["id"]
    event = {**created, "id": "THE_EVENT", "type": "customer.updated", "created": 1234567890, "padding": "x" * padding}
    filling = {"key": key, "prefix": f"evt_{user_id}_", "payload": json.dumps(event), "queue": events}
    async with account.sessions.begin() as session:
        await session.execute(FILL, {**filling, "created": account.sandbox.now()})
    return key


async def rows_read(engine: AsyncEngine) -> int:
    """Entries of its indexes and rows of its own that scans of the inbox's table have read so far."""
    await engine.dispose()  # a connection's last figures are told when it ends
    others = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    read = text(
        """
        SELECT seq_tup_read + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'stripe_events')
          FROM pg_stat_user_tables WHERE relname = 'stripe_events'
        """
    )
    async with engine.connect() as connection:
        await until_none(connection, others)
        return int(await connection.scalar(read) or 0)


@pytest.mark.parametrize("analyzed", [False, True])
async def test_who_is_due_is_found_without_reading_a_long_queue(
    account: Account, engine: AsyncEngine, busy: str, *, analyzed: bool
) -> None:
    others = [crowd.subscription_created(account, f"user-{n}") for n in range(OTHERS)]
    for event in others:
        await account.deliver(event)
    if analyzed:
        async with engine.begin() as connection:
            await connection.execute(text("ANALYZE stripe_events"))
    before = await rows_read(engine)
    keys = await account.due_keys(most=OTHERS + 1)
    read = await rows_read(engine) - before
    assert set(keys) == {busy, *(event["data"]["object"]["customer"] for event in others)}
    assert OTHERS < read < QUEUE / 10


async def test_the_others_are_served_while_a_long_queue_waits(
    account: Account, billhook: Billhook, engine: AsyncEngine, busy: str
) -> None:
    others = [crowd.subscription_created(account, f"user-{n}") for n in range(OTHERS)]
    for event in others:
        await account.deliver(event)
    async with billhook.working():
        await settled(engine, "key <> :busy", busy)
        assert await waiting(account) > QUEUE / 2
        # Nor does the event that can't be applied hold up those of its own customer.
        await settled(engine, "key = :busy AND event_id = 'evt_busy_1'", busy)


@pytest.mark.parametrize(("heavy", "padding"), [(3, 0), (1, LARGE)], ids=["three long queues", "one of large events"])
async def test_of_each_customer_something_is_in_the_first_batch(account: Account, heavy: int, padding: int) -> None:
    keys = [await fill(account, f"heavy-{n}", 150, padding=padding) for n in range(heavy)]
    for n in range(20):
        created, *_ = crowd.subscribe(account, f"light-{n}")
        await account.deliver(created)
    due = await account.due_keys(most=KEYS)
    assert set(due[:heavy]) == set(keys)
    await account.process_batch(due)
    left = Counter(row.key for row in await account.all(models.StripeEvent) if row.status == "pending")
    assert set(left) == set(keys)
    assert max(left.values()) < 150


async def settled(engine: AsyncEngine, which: str, busy: str) -> None:
    """Wait until none of these events is pending."""
    query = text(f"SELECT count(*) FROM stripe_events WHERE status = 'pending' AND {which}")  # noqa: S608 - our own
    async with engine.connect() as connection:
        await until_none(connection, query.bindparams(busy=busy))


async def until_none(connection: AsyncConnection, query: TextClause) -> None:
    async with asyncio.timeout(30):
        while await connection.scalar(query):  # noqa: ASYNC110 - the database is asked, and tells nobody by itself
            await asyncio.sleep(0.02)
