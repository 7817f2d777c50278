"""Removes what has served its time, slice by slice: no lock lasts, and being stopped midway does no harm.

And looks ahead, to the cards that expire.
"""

import asyncio
from datetime import timedelta

from app.db import Sessions, driver_connection, transaction
from app.services import payment_methods
from app.values import unix_now, utcnow

IDEMPOTENCY_KEPT = timedelta(hours=24)  # as long as Stripe keeps its own
API_CALLS_KEPT = timedelta(days=90)
PAUSE_SECONDS = 0.1  # between two slices: others want the disk too

# Each is one statement and so one transaction. Rows that are locked just now are left for the next time, so that
# several workers share the work and nobody waits. ARRAY, as for a join Postgres may read the whole table.
PAYLOADS = """
UPDATE stripe_events SET payload = NULL
 WHERE id = ANY (ARRAY(
    SELECT id FROM stripe_events
     WHERE received_at < $1 AND payload IS NOT NULL AND status IN ('processed', 'ignored')
     ORDER BY received_at LIMIT 500 FOR UPDATE SKIP LOCKED))
"""
API_CALLS = """
DELETE FROM api_calls
 WHERE id = ANY (ARRAY(SELECT id FROM api_calls WHERE at < $1 ORDER BY at LIMIT 500 FOR UPDATE SKIP LOCKED))
"""
PREVIEWS = """
DELETE FROM subscription_previews
 WHERE id = ANY (ARRAY(
    SELECT id FROM subscription_previews WHERE expires_at < $1 ORDER BY expires_at LIMIT 500 FOR UPDATE SKIP LOCKED))
"""
IDEMPOTENCY_KEYS = """
WITH oldest AS (
    SELECT caller, key FROM idempotency_keys
     WHERE created_at < $1 ORDER BY created_at LIMIT 500 FOR UPDATE SKIP LOCKED)
DELETE FROM idempotency_keys USING oldest
 WHERE idempotency_keys.caller = oldest.caller AND idempotency_keys.key = oldest.key
"""


async def keep_house(sessions: Sessions, *, payload_days: int) -> None:
    """Empty what events said and delete calls, previews and idempotency keys, once old enough. Events stay."""
    await _in_slices(sessions, PAYLOADS, older_than=timedelta(days=payload_days))
    await _in_slices(sessions, API_CALLS, older_than=API_CALLS_KEPT)
    await _in_slices(sessions, PREVIEWS, older_than=IDEMPOTENCY_KEPT)  # so long may a confirmation be repeated
    await _in_slices(sessions, IDEMPOTENCY_KEYS, older_than=IDEMPOTENCY_KEPT)


async def announce_expiring_cards(sessions: Sessions) -> None:
    async with transaction(sessions) as session:
        await payment_methods.announce_expiring(session, now=unix_now())


async def _in_slices(sessions: Sessions, statement: str, *, older_than: timedelta) -> None:
    before = utcnow() - older_than
    while True:
        async with driver_connection(sessions) as connection:
            done = await connection.execute(statement, before)
        if done.endswith(" 0"):
            return
        await asyncio.sleep(PAUSE_SECONDS)
