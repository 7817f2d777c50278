"""Applies stored events: customers in parallel, one customer's events one after another, each exactly once."""

import asyncio
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from redis.asyncio import Redis
from sqlalchemy import func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import Sessions, driver_connection
from app.errors import BillingError, RateLimitedError, UnavailableError
from app.models import StripeEvent
from app.observability import customer_locks_busy, events_backlog, events_due, events_lag, events_processed
from app.provider.objects import Event
from app.provider.protocol import BillingProvider
from app.redis import courtesy_lock
from app.services import event_effects
from app.services.customers import lock_number
from app.services.event_effects import Fetches, Ref, StaleError
from app.values import utcnow
from app.worker import batch

log = structlog.get_logger(__name__)

BATCH = 100
LOCK_WAIT_SECONDS = 1.0
BUSY_SECONDS = 0.1
ROUNDS = 5
FIRST_RETRY_SECONDS = 2.0
LONGEST_RETRY_SECONDS = 3600.0
OUTAGE_RETRY_SECONDS = 30.0  # what Stripe is spared meanwhile, the breaker spares it

# While its statistics are old Postgres would rather read and sort the whole queue than walk an index in its order.
IN_ORDER = (
    "SELECT set_config(name, 'off', true) FROM unnest('{enable_sort,enable_bitmapscan,enable_seqscan}'::text[]) name"
)
# What waits longest comes first: one short look at an index answers for almost every moment of a service's life.
SOONEST = """
SELECT key, sum(count(*)) OVER () AS seen
  FROM (SELECT key, next_attempt_at FROM stripe_events
         WHERE status = 'pending' AND next_attempt_at <= now() ORDER BY next_attempt_at LIMIT $1) AS soonest
 GROUP BY key ORDER BY min(next_attempt_at)
"""
# But when a few customers' events fill that window, this steps from key to key, past any number of waiting events of
# one customer. It takes at most $2 steps and goes on from there next time, so that no look takes long.
NEXT_KEYS = """
WITH RECURSIVE heads AS (
    (SELECT key, next_attempt_at, 1 AS step FROM stripe_events
      WHERE status = 'pending' AND key > $1 ORDER BY key, next_attempt_at LIMIT 1)
    UNION ALL
    SELECT next.key, next.next_attempt_at, heads.step + 1 FROM heads
     CROSS JOIN LATERAL (
        SELECT key, next_attempt_at FROM stripe_events
         WHERE status = 'pending' AND key > heads.key ORDER BY key, next_attempt_at LIMIT 1) AS next
     WHERE heads.step < $2
)
SELECT key, next_attempt_at <= now() AS due FROM heads
"""
PUT_OFF = """
UPDATE stripe_events SET next_attempt_at = now() + $2 * interval '1 second'
 WHERE key = ANY($1) AND status = 'pending' AND next_attempt_at <= now()
"""
WINDOW = 512
STEPS = 1000


@dataclass(slots=True, kw_only=True)
class Inbox:
    """What processing needs; everything is shared with the rest of the process."""

    sessions: Sessions
    redis: Redis
    provider: BillingProvider
    max_attempts: int
    _walked_to: str = ""

    async def due_keys(self, connection: Any, *, most: int, busy: Collection[str] = ()) -> list[str]:
        """At most `most` keys with events to apply now, none of them `busy`; whoever waits longest comes first.

        However many events of however few customers are waiting, none of the others is kept waiting for ever.
        """
        async with connection.transaction():
            await connection.execute(IN_ORDER)
            soonest = await connection.fetch(SOONEST, WINDOW)
            keys = [row["key"] for row in soonest if row["key"] not in busy][:most]
            if soonest and soonest[0]["seen"] == WINDOW and len(keys) < most:
                walked = await connection.fetch(NEXT_KEYS, self._walked_to, STEPS)
                self._walked_to = walked[-1]["key"] if len(walked) == STEPS else ""
                keys += [row["key"] for row in walked if row["due"] and row["key"] not in busy]
        return list(dict.fromkeys(keys))[:most]

    async def put_off(self, connection: Any, keys: Sequence[str], *, seconds: float) -> None:
        """Leave the due events of keys for a while; not a failure."""
        await connection.execute(PUT_OFF, keys, seconds)

    async def measure_backlog(self) -> None:
        """Set the gauges; counting stops at ten thousand, where the exact number no longer matters."""
        waiting = select(StripeEvent.id).where(StripeEvent.status == "pending").limit(10_000)
        async with self.sessions.begin() as session:
            for gauge, rows in (
                (events_backlog, waiting),
                (events_due, waiting.where(StripeEvent.next_attempt_at <= func.now())),
            ):
                gauge.set(await session.scalar(select(func.count()).select_from(rows.subquery())) or 0)

    async def process_key(self, key: str) -> int:
        """Apply the due events of one key. Returns how many were settled (applied, or put off after a failure)."""
        async with courtesy_lock(self.redis, f"events:{key}", wait=LOCK_WAIT_SECONDS):
            settled, also = 0, set[Ref]()
            for _ in range(ROUNDS):
                done, missing = await self._round(key, also)
                settled += done
                if not missing:
                    if not done:  # don't ask again at once; and not while holding a connection
                        await asyncio.sleep(BUSY_SECONDS)
                    return settled
                also = missing
            async with driver_connection(self.sessions) as connection:  # its rows kept changing under us
                await self.put_off(connection, [key], seconds=1)
            return settled

    async def _round(self, key: str, also: set[Ref]) -> tuple[int, set[Ref]]:
        async with self.sessions.begin() as session:
            waiting = await _due_events(session, key)
            events = {row.id: batch.read(self.provider, row.payload) for row in waiting}
            readable = [event for event in events.values() if isinstance(event, Event)]
            fetches = await event_effects.plan(session, readable, also=also)
        # Stripe is asked outside any transaction. Two workers may both ask; each answer is applied only if the row
        # is still what it was before the asking.
        await event_effects.fetch(self.provider, fetches)
        missing = set[Ref]()
        settled = 0
        async with self.sessions.begin() as session:
            # The customers of what was fetched too: a thin event's key is not its customer's.
            for owner in {key} | event_effects.owners(fetches):
                if not await session.scalar(select(func.pg_try_advisory_xact_lock(lock_number(owner)))):
                    customer_locks_busy.inc()
                    return 0, set()  # somebody else is writing this customer's rows; the events stay due
            still = set(
                await session.scalars(
                    select(StripeEvent.id)
                    .where(StripeEvent.id.in_(events), StripeEvent.status == "pending")
                    .with_for_update(skip_locked=True)
                )
            )
            for row in waiting:
                if row.id not in still:
                    continue
                try:
                    await self._apply(session, events[row.id], fetches)
                except StaleError as stale:
                    missing.add(stale.ref)
                    continue
                except SQLAlchemyError as error:
                    if session.get_transaction() is None or not session.is_active or _lost_connection(error):
                        raise
                    await self._fail(session, row, error)
                except Exception as error:  # noqa: BLE001 - whatever is wrong with one event must not stop the others
                    await self._fail(session, row, error)
                else:
                    await _finish(session, row)
                settled += 1
        return settled, missing

    async def _apply(self, session: AsyncSession, event: Event | Exception, fetches: Fetches) -> None:
        if isinstance(event, Exception):
            raise event
        applied = set(fetches.applied)
        try:
            async with session.begin_nested():
                await event_effects.apply(session, event, fetches)
        except BaseException:
            fetches.applied = applied  # the savepoint took back what was applied inside it
            raise

    async def _fail(self, session: AsyncSession, row: StripeEvent, error: Exception) -> None:
        """Put an event off, or aside for good. An outage of Stripe's is nobody's fault and uses up no attempt."""
        outage = isinstance(error, UnavailableError | RateLimitedError)
        attempts = row.attempts + (0 if outage else 1)
        dead = attempts >= self.max_attempts
        wait = OUTAGE_RETRY_SECONDS if outage else min(FIRST_RETRY_SECONDS * 2**attempts, LONGEST_RETRY_SECONDS)
        wait *= random.uniform(0.5, 1.5)  # noqa: S311 - spreads retries, guards nothing
        reason = f"{type(error).__name__}: {error.message if isinstance(error, BillingError) else error}"
        await session.execute(
            update(StripeEvent)
            .where(StripeEvent.id == row.id)
            .values(
                attempts=attempts,
                status="dead" if dead else "pending",
                next_attempt_at=utcnow() + timedelta(seconds=wait),
                last_error=reason.replace("\0", "")[:2000],
            )
        )
        events_processed.labels(row.type, "dead" if dead else "failed").inc()
        log.warning("stripe_webhook_failed", event_id=row.event_id, attempts=attempts, dead=dead, error=reason)


async def _due_events(session: AsyncSession, key: str) -> Sequence[StripeEvent]:
    found = await session.scalars(
        select(StripeEvent)
        .where(StripeEvent.key == key, StripeEvent.status == "pending", StripeEvent.next_attempt_at <= func.now())
        .order_by(StripeEvent.created, StripeEvent.id)
        .limit(BATCH)
    )
    return found.all()


async def _finish(session: AsyncSession, row: StripeEvent) -> None:
    now = utcnow()
    await session.execute(
        update(StripeEvent)
        .where(StripeEvent.id == row.id)
        .values(status="processed", attempts=row.attempts + 1, processed_at=now, last_error=None)
    )
    events_processed.labels(row.type, "processed").inc()
    if row.processed_at is None:  # else it is a replay
        events_lag.observe(max((now - row.received_at).total_seconds(), 0))


def _lost_connection(error: SQLAlchemyError) -> bool:
    return bool(getattr(error, "connection_invalidated", False))
