"""Applies the due events of many customers in one transaction; what stands out is left to be done alone."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg
import structlog

from app.db import AWAY
from app.observability import batch_size, customer_locks_busy, events_lag, events_processed
from app.provider.mapping.events import decode
from app.provider.objects import Event
from app.provider.protocol import BillingProvider
from app.services import bulk_effects
from app.services.bulk_rows import OvertakenError
from app.values import utcnow

log = structlog.get_logger(__name__)

KEYS = 64
BREATH = 50_000  # bytes read between two looks at the event loop, so that requests are not kept waiting
PROBE_SECONDS = 2.0

LOCK = """
SELECT key FROM unnest($1::text[]) AS key WHERE pg_try_advisory_xact_lock(hashtextextended(key, 0))
"""
# At most a hundred events of one customer, 256 and 4 MB in all: what a batch holds in memory is bounded. First each
# customer's first event, then each one's second: nobody's queue takes the others' places.
DUE = """
SELECT id, key, type, created, received_at, processed_at, payload
  FROM (SELECT *, row_number() OVER fair AS place, sum(octet_length(payload)) OVER fair AS bytes
          FROM (SELECT event.*, row_number() OVER (PARTITION BY key ORDER BY created, id) AS nth
                  FROM unnest($1::text[]) AS wanted
                 CROSS JOIN LATERAL (
                    SELECT id, key, type, created, received_at, processed_at, payload FROM stripe_events
                     WHERE key = wanted AND status = 'pending' AND next_attempt_at <= now()
                     ORDER BY created, id LIMIT 100) AS event) AS ranked
        WINDOW fair AS (ORDER BY nth, key ROWS UNBOUNDED PRECEDING)) AS due
 WHERE place = 1 OR (place <= 256 AND bytes <= 4000000)
"""
FINISH = """
UPDATE stripe_events SET status = 'processed', attempts = attempts + 1, processed_at = clock_timestamp(),
       last_error = NULL
 WHERE id = ANY($1) AND status = 'pending'
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch's keys: `left` need to be done one at a time, `busy` are somebody else's just now."""

    left: Sequence[str]
    busy: Sequence[str]


async def process(connection: Any, provider: BillingProvider, keys: Sequence[str]) -> Outcome:
    """Apply the due events of `keys`: all that can be applied together, or none. Raises when the database is away.

    `connection` is `db.driver_connection`'s.
    """
    batch = _Batch()
    try:
        async with connection.transaction():
            await _apply(connection, provider, keys, batch)
    except Exception as error:
        if not await _answers(connection):
            raise
        # Whatever it was, one at a time it harms only the one that caused it. Postgres' words may quote a row.
        quotes = isinstance(error, asyncpg.PostgresError)
        log.warning("inbox_batch_failed", keys=len(batch.due), error=repr(error), exc_info=not quotes)
        batch.done = set()
    _count([one for key in batch.done for one in batch.due[key]])
    customer_locks_busy.inc(len(keys) - len(batch.locked))
    return Outcome(
        left=[key for key in batch.due if key not in batch.done],
        busy=[key for key in keys if key not in batch.locked],
    )


@dataclass(slots=True)
class _Batch:
    """How far a batch has come; after a failure it says what it was about."""

    locked: set[str] = field(default_factory=set)
    due: "Mapping[str, Sequence[_Due]]" = field(default_factory=dict)
    done: set[str] = field(default_factory=set)


async def _apply(connection: Any, provider: BillingProvider, keys: Sequence[str], batch: _Batch) -> None:
    batch.locked = {row["key"] for row in await connection.fetch(LOCK, keys)}
    batch.due = dict.fromkeys(batch.locked, ())  # should reading fail, each is to be read alone
    batch.due = await _due(connection, provider, [key for key in keys if key in batch.locked])
    events = {key: [one.event for one in several if one.event] for key, several in batch.due.items()}
    readable = {key: several for key, several in events.items() if len(several) == len(batch.due[key])}
    decided = await bulk_effects.decide(connection, readable)
    finished = [one.id for key in decided for one in batch.due[key]]
    # Events first, audit chains last: as whoever replays an event locks them.
    if await connection.execute(FINISH, finished) != f"UPDATE {len(finished)}":
        raise OvertakenError
    await bulk_effects.write(connection, [change for changes in decided.values() for change in changes])
    batch.done = set(decided)


async def _answers(connection: Any) -> bool:
    """Whether the database is there: then what failed was our own doing, or a row's."""
    try:
        return bool(await connection.fetchval("SELECT true", timeout=PROBE_SECONDS))
    except AWAY:
        return False


@dataclass(frozen=True, slots=True)
class _Due:
    id: int
    type: str
    created: int
    received_at: datetime
    replayed: bool
    event: Event | None
    """None when the payload can't be read."""


async def _due(connection: Any, provider: BillingProvider, keys: Sequence[str]) -> dict[str, list[_Due]]:
    """The events to apply now, by key, oldest first."""
    due: dict[str, list[_Due]] = {}
    unread = BREATH
    for row in await connection.fetch(DUE, keys):
        event = read(provider, row["payload"])
        unread -= len(row["payload"] or "")
        if unread <= 0:
            await asyncio.sleep(0)
            unread = BREATH
        one = _Due(
            id=row["id"],
            type=row["type"],
            created=row["created"],
            received_at=row["received_at"],
            replayed=row["processed_at"] is not None,
            event=None if isinstance(event, Exception) else event,
        )
        due.setdefault(row["key"], []).append(one)
    for several in due.values():
        several.sort(key=lambda one: (one.created, one.id))
    return due


def read(provider: BillingProvider, payload: str | None) -> Event | Exception:
    try:
        return provider.parse_event(decode(payload or ""))
    except (ValueError, RecursionError) as error:
        return error


def _count(finished: Sequence[_Due]) -> None:
    now = utcnow()
    for one in finished:
        events_processed.labels(one.type, "processed").inc()
        if not one.replayed:
            events_lag.observe(max((now - one.received_at).total_seconds(), 0))
    if finished:
        batch_size.labels("apply").observe(len(finished))
