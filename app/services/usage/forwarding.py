"""Sending usage on to Stripe's meters: which events are due, whose turn it is, and what became of each try.

Stripe knows an event by its identifier for a day, so within that day a try whose outcome nobody knows is simply
repeated: Stripe takes the event or says that it has it. After that only its sums can tell (see `weigh`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

LEASE_SECONDS = 120
PROTECTED_FOR = timedelta(hours=23)
"""How long after its first try an event may be sent again: Stripe promises 24 hours, clocks and queues take some."""
PAST_SECONDS = 35 * 86_400 - 300
"""How old an event may be when it is sent: a little less than Stripe takes, as it has yet to get there."""
SUMS_LAG = timedelta(minutes=15)
"""After so long an event that Stripe took is in its sums: it promises no time, and is mostly done within seconds."""
NEW_SECONDS = 2 * 86_400
MINUTE = 60


class Pair(NamedTuple):
    """Whose events of which meter, which Stripe takes one at a time. `customer` is the Stripe id, "" if it is gone."""

    subject: str
    meter: str
    customer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """An event to be sent, or (`canceling`) taken back; Stripe knows it by `identifier`. `sent`: it said so.

    `unprotected`: it was tried, nobody knows how that ended, and by now Stripe may have forgotten its identifier.
    """

    id: str
    identifier: str
    quantity: int
    timestamp: int
    status: Literal["pending", "canceling"]
    attempts: int
    sent: bool
    unprotected: bool


# Only those of lately, or all: whoever has long been a customer has nothing that waits for it.
_RELEASE = text("""
UPDATE usage_events SET status = 'pending'
  FROM customers
 WHERE usage_events.status = 'held' AND customers.user_id = usage_events.subject AND NOT customers.deleted
   AND customers.created >= :since
""")
_EXPIRE = text("""
UPDATE usage_events SET status = 'expired', error_code = 'timestamp_too_far_in_past'
 WHERE status = ANY(CAST(:statuses AS text[])) AND timestamp < :oldest
RETURNING id
""")
# From pair to pair along the index, past whatever else waits of each; from `after` on, and then from the beginning.
_PAIRS = text("""
WITH RECURSIVE due AS (
    (SELECT subject, meter FROM usage_events
      WHERE status IN ('pending', 'canceling') AND next_attempt_at <= now()
        AND (subject, meter) > (CAST(:subject AS text), CAST(:meter AS text))
      ORDER BY subject, meter LIMIT 1)
    UNION ALL
    SELECT next.subject, next.meter
      FROM due, LATERAL (
        SELECT subject, meter FROM usage_events
         WHERE status IN ('pending', 'canceling') AND next_attempt_at <= now()
           AND (subject, meter) > (due.subject, due.meter)
         ORDER BY subject, meter LIMIT 1) AS next
)
SELECT due.subject, due.meter,
       (SELECT stripe_id FROM customers
         WHERE NOT deleted AND (user_id = due.subject OR stripe_id = due.subject) LIMIT 1) AS customer
  FROM (SELECT * FROM due LIMIT :most) AS due
""")
_LEASE = text("""
INSERT INTO usage_leases AS lease (subject, meter, until)
VALUES (:subject, :meter, now() + make_interval(secs => :seconds))
ON CONFLICT (subject, meter) DO UPDATE SET until = EXCLUDED.until WHERE lease.until <= now()
RETURNING until
""")
_RETURN = text("DELETE FROM usage_leases WHERE subject = :subject AND meter = :meter AND until = :until")
# An event counts as tried from here on, whether or not it then is: what is known must never be less than what was done.
_TAKE = text("""
WITH due AS (
    SELECT seq, attempted_at FROM usage_events
     WHERE subject = :subject AND meter = :meter AND status IN ('pending', 'canceling') AND next_attempt_at <= now()
     ORDER BY seq LIMIT :most FOR UPDATE)
UPDATE usage_events AS event
   SET attempts = attempts + 1, attempted_at = coalesce(event.attempted_at, now()),
       next_attempt_at = now() + make_interval(secs => :patience)
  FROM due WHERE event.seq = due.seq
RETURNING event.seq, event.id, coalesce(event.identifier, event.id) AS identifier, event.quantity, event.timestamp,
          event.status, event.attempts - 1 AS attempts, event.sent_at IS NOT NULL AS sent,
          event.status = 'pending' AND due.attempted_at < now() - CAST(:protected AS interval) AS unprotected
""")
_SETTLE = text("""
UPDATE usage_events
   SET status = CASE WHEN status = :was THEN :status
                     WHEN status = 'canceling' AND :status = 'failed' THEN 'canceled'
                     ELSE status END,
       sent_at = CASE WHEN :was = 'pending' AND :status = 'sent' THEN now() ELSE sent_at END,
       error_code = :error_code
 WHERE id = :id
""")
_PUT_OFF = text("""
UPDATE usage_events SET next_attempt_at = now() + make_interval(secs => :seconds), error_code = :error_code
 WHERE id = ANY(CAST(:ids AS text[]))
""")
_UNTRIED = text("""
UPDATE usage_events
   SET attempts = attempts - 1, next_attempt_at = now(),
       attempted_at = CASE WHEN attempts = 1 THEN NULL ELSE attempted_at END
 WHERE id = ANY(CAST(:ids AS text[]))
""")
_COUNTED = text("""
SELECT coalesce(sum(CASE WHEN :count THEN 1 ELSE quantity END) FILTER (WHERE status = 'sent'), 0)::bigint AS amount,
       coalesce(bool_or(
           status = 'canceling'
           OR (status = 'sent' AND sent_at > now() - CAST(:lag AS interval))
           OR (status = 'canceled' AND attempted_at IS NOT NULL AND next_attempt_at > now() - CAST(:lag AS interval))
       ), false) AS moving
  FROM usage_events
 WHERE subject = :subject AND meter = :meter AND timestamp >= :start AND timestamp < :end
""")
_BACKLOG = text("""
SELECT status, count(*) AS events, coalesce(extract(epoch FROM now() - min(recorded_at)), 0)::float8 AS age
  FROM usage_events WHERE status <> 'sent' AND status <> 'canceled' GROUP BY status
""")


async def prepare(session: AsyncSession, *, now: int, thoroughly: bool) -> list[str]:
    """Let go what waited for its customer, give up what grew too old; answers the ids of the latter.

    `thoroughly` reads all that is held, which may be the usage of everybody who never bought anything.
    """
    await session.execute(_RELEASE, {"since": 0 if thoroughly else now - NEW_SECONDS})
    statuses = ["pending", "held"] if thoroughly else ["pending"]
    return list((await session.scalars(_EXPIRE, {"statuses": statuses, "oldest": now - PAST_SECONDS})).all())


async def due_pairs(session: AsyncSession, *, after: Pair | None, most: int) -> list[Pair]:
    """Those with something due: up to `most` that follow `after`, in an order that never changes."""
    place = {"subject": "", "meter": ""} if after is None else {"subject": after.subject, "meter": after.meter}
    found = await session.execute(_PAIRS, {**place, "most": most})
    return [Pair(row.subject, row.meter, row.customer or "") for row in found]


async def lease(session: AsyncSession, pair: Pair) -> datetime | None:
    """Until when this process alone may send these; None while another does."""
    taken = {"subject": pair.subject, "meter": pair.meter, "seconds": LEASE_SECONDS}
    until: datetime | None = await session.scalar(_LEASE, taken)
    return until


async def give_back(session: AsyncSession, pair: Pair, until: datetime) -> None:
    """Let the others at it, unless they are by now."""
    await session.execute(_RETURN, {"subject": pair.subject, "meter": pair.meter, "until": until})


async def take(session: AsyncSession, pair: Pair, *, most: int) -> Sequence[Due]:
    """Up to `most` due events, oldest first, marked as tried. They come up again by themselves should we vanish."""
    found = await session.execute(
        _TAKE,
        {
            "subject": pair.subject,
            "meter": pair.meter,
            "most": most,
            "patience": LEASE_SECONDS,
            "protected": PROTECTED_FOR,
        },
    )
    rows = sorted(found, key=lambda row: row.seq)
    return [
        Due(
            id=row.id,
            identifier=row.identifier,
            quantity=row.quantity,
            timestamp=row.timestamp,
            status=row.status,
            attempts=row.attempts,
            sent=row.sent,
            unprotected=bool(row.unprotected),
        )
        for row in rows
    ]


async def settle(session: AsyncSession, event: Due, status: str, *, error_code: str | None = None) -> None:
    """What became of it for good, unless it was canceled here meanwhile, which then is still to be told."""
    await session.execute(_SETTLE, {"id": event.id, "was": event.status, "status": status, "error_code": error_code})


async def put_off(session: AsyncSession, events: Sequence[Due], *, seconds: float, error_code: str) -> None:
    ids = [event.id for event in events]
    await session.execute(_PUT_OFF, {"ids": ids, "seconds": seconds, "error_code": error_code})


async def untry(session: AsyncSession, events: Sequence[Due]) -> None:
    """These were marked as tried and then weren't."""
    await session.execute(_UNTRIED, {"ids": [event.id for event in events]})


async def counted(session: AsyncSession, pair: Pair, *, aggregation: str, start: int, end: int) -> int | None:
    """What Stripe should have counted in between of what we know it took; None while it may still be counting."""
    asked = {
        "subject": pair.subject,
        "meter": pair.meter,
        "count": aggregation == "count",
        "start": start,
        "end": end,
        "lag": SUMS_LAG,
    }
    row = (await session.execute(_COUNTED, asked)).one()
    return None if row.moving else int(row.amount)


def weigh(event: Due, *, aggregation: str, ours: int, theirs: Decimal) -> Literal["sent", "unsent", "unknown"]:
    """Whether Stripe has an event of unknown outcome, by what it counted in that event's minute.

    `ours` is what it should have counted without the event.
    """
    if aggregation == "last":
        return "unknown"
    weight = 1 if aggregation == "count" else event.quantity
    if theirs == ours + weight:
        return "sent"
    return "unsent" if theirs == ours else "unknown"


async def backlog(session: AsyncSession) -> dict[str, tuple[int, float]]:
    """How many events are in each state but done, and for how long the oldest has been (seconds)."""
    found: Any = await session.execute(_BACKLOG)
    return {row.status: (row.events, row.age) for row in found}
