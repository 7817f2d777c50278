"""Usage taken back (at Stripe by canceling the event within a day, later by a negative one), or sent again."""

from datetime import timedelta
from hashlib import sha256
from typing import Literal, NamedTuple
from uuid import uuid4

from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError, NotFoundError
from app.models import UsageEvent, UsageTotal
from app.services import audit
from app.services.catalog import Catalog
from app.services.usage.forwarding import PAST_SECONDS
from app.values import utcnow

CANCELABLE_FOR = timedelta(hours=23)
"""From the first try on: Stripe cancels within 24 hours of receipt, and the worker needs some time to ask for it."""

Way = Literal["withdrawn", "cancellation", "negative_event"]
"""How an event is taken back: before Stripe had it, by canceling it there, or by one that evens it out."""


class Correction(NamedTuple):
    """`event` is the event as it is now, `by` the id of the one that evens it out."""

    event: UsageEvent
    way: Way
    by: str | None = None


CANCELLATION_REFUSED = "cancellation_refused"
"""The error code of a counted event that was taken back here, and that Stripe would no longer cancel."""
_EVEN_OUT = text("""
INSERT INTO usage_events (id, subject, meter, quantity, timestamp, period_start, status, corrects)
SELECT :by, subject, meter, -quantity, CASE WHEN timestamp > :oldest THEN timestamp ELSE :now END, period_start,
       'pending', id
  FROM usage_events WHERE id = :id
ON CONFLICT (id) DO NOTHING
""")


async def cancel(session: AsyncSession, catalog: Catalog, id: str, *, actor: str, now: int) -> Correction:
    """Take one event back, whole; twice is no error. Raises NotFoundError, or ConflictError where it can't be undone.

    One that is evened out stays `sent`, as it is at Stripe, beside the one that does it.
    """
    event = await _locked(session, id)
    if event.corrects is not None:
        raise ConflictError("A correction can't be taken back: record the usage anew.", code="usage_event_corrects")
    if (by := await _evened_out_by(session, id)) is not None:
        return Correction(event, "negative_event", by)
    if event.status in {"canceled", "canceling"}:
        return Correction(event, "withdrawn" if event.attempted_at is None else "cancellation")
    meter = catalog.meters.get(event.meter)
    aggregation = "sum" if meter is None else meter.aggregation
    way = _way(event, aggregation)
    correction = Correction(event, way, await even_out(session, id, now=now) if way == "negative_event" else None)
    before = event.status
    if correction.way != "negative_event":
        event.status = "canceling" if correction.way == "cancellation" else "canceled"
        event.next_attempt_at = utcnow()
    weight = 1 if aggregation == "count" else event.quantity
    await _uncount(session, event, weight)
    await audit.record(
        session,
        actor=actor,
        action="usage_event.canceled",
        subject=event.id,
        before={"status": before},
        after={"status": event.status, "way": correction.way, "by": correction.by},
    )
    return correction


def _way(event: UsageEvent, aggregation: str) -> Way:
    """How this event can be taken back. Raises ConflictError where it can't."""
    if event.error_code == CANCELLATION_REFUSED:
        raise ConflictError("Stripe has refused to cancel this event.", code="usage_not_cancelable")
    if aggregation == "last":
        raise ConflictError("This meter goes by its latest value: record the right one.", code="usage_not_cancelable")
    if event.status in {"held", "failed", "expired"} or event.attempted_at is None:
        return "withdrawn"
    if event.attempted_at > utcnow() - CANCELABLE_FOR:
        return "cancellation"
    if aggregation == "count":
        raise ConflictError(
            "Stripe cancels a counted event only for 24 hours after it was sent.", code="usage_not_cancelable"
        )
    return "negative_event"


async def even_out(session: AsyncSession, id: str, *, now: int) -> str:
    """Store the negative of an event, to be sent like any other; answers its id.

    It lies in the same billing period where Stripe still takes that, or it would even out nothing.
    """
    by = correction_id(id)
    await session.execute(_EVEN_OUT, {"id": id, "by": by, "oldest": now - PAST_SECONDS + 3600, "now": now})
    return by


def correction_id(id: str) -> str:
    """The id of the event that evens out this one: always the same, and none that anybody chooses by accident."""
    return f"correction-{sha256(id.encode()).hexdigest()}"


async def retry(session: AsyncSession, id: str, *, actor: str, now: int) -> UsageEvent:
    """Have a failed event sent again. Raises NotFoundError, or ConflictError where that would do no good.

    What Stripe took and then could not count it still knows by its identifier, so that goes under a new one.
    """
    event = await _locked(session, id)
    if event.status != "failed":
        raise ConflictError("Only what failed can be sent again.", code="usage_event_not_failed")
    if event.error_code == CANCELLATION_REFUSED or await _evened_out_by(session, id) is not None:
        raise ConflictError("This event has been taken back.", code="usage_event_canceled")
    if event.timestamp < now - PAST_SECONDS:
        raise ConflictError("Stripe takes usage of the last 35 days.", code="timestamp_too_old")
    before = event.error_code
    if event.sent_at is not None:
        event.identifier = f"retry-{uuid4().hex}"
    event.status = "pending"
    event.next_attempt_at = utcnow()
    # The number of attempts goes on: it keeps Stripe from repeating its answer to one of them.
    event.attempted_at = event.sent_at = event.error_code = None
    await audit.record(
        session,
        actor=actor,
        action="usage_event.retried",
        subject=event.id,
        before={"status": "failed", "error_code": before},
        after={"status": event.status, "identifier": event.identifier},
    )
    return event


async def _locked(session: AsyncSession, id: str) -> UsageEvent:
    event = await session.scalar(select(UsageEvent).where(UsageEvent.id == id).with_for_update())
    if event is None:
        raise NotFoundError("There is no such usage event.", code="usage_event_not_found")
    return event


async def _evened_out_by(session: AsyncSession, id: str) -> str | None:
    by: str | None = await session.scalar(select(UsageEvent.id).where(UsageEvent.id == correction_id(id)))
    return by


async def _uncount(session: AsyncSession, event: UsageEvent, weight: int) -> None:
    await session.execute(
        update(UsageTotal)
        .where(
            UsageTotal.subject == event.subject,
            UsageTotal.meter == event.meter,
            UsageTotal.period_start == event.period_start,
        )
        .values(used=UsageTotal.used - weight, events=UsageTotal.events - 1)
    )
