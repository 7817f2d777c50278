"""Stripe's reports of usage it could not count, matched with the events they name."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.provider.usage_objects import MeterErrorReport
from app.services.usage.corrections import correction_id

TYPES = ("v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found")

# The inbox keeps these thin events as ignored, for they show no object that it follows.
_UNREAD = text("""
SELECT id, event_id FROM stripe_events
 WHERE type = ANY(CAST(:types AS text[])) AND status = 'ignored' AND account = '' AND livemode = :livemode
 ORDER BY id LIMIT 20
""")
_READ = text("""
UPDATE stripe_events SET status = 'processed', reason = NULL, processed_at = now() WHERE id = :id AND status = 'ignored'
""")
# Stripe had it, or could not report it. One that is being taken back needs no more of that, for it never counted.
_FAIL = text("""
UPDATE usage_events
   SET status = CASE WHEN status = 'canceling' THEN 'canceled' ELSE 'failed' END,
       error_code = :code, sent_at = coalesce(sent_at, now())
 WHERE status IN ('pending', 'sent', 'canceling') AND attempted_at IS NOT NULL
   AND (identifier = ANY(CAST(:ids AS text[])) OR (identifier IS NULL AND id = ANY(CAST(:ids AS text[]))))
RETURNING id
""")
# Nor does what evens it out: without the event it would take away from others.
_WITHDRAW = text("""
UPDATE usage_events
   SET status = CASE WHEN attempted_at IS NULL THEN 'canceled' ELSE 'canceling' END, next_attempt_at = now()
 WHERE id = ANY(CAST(:ids AS text[])) AND status IN ('pending', 'sent')
""")


class Unread(NamedTuple):
    """A report that arrived: its row in the inbox, and Stripe's id of it."""

    row: int
    event: str


async def unread(session: AsyncSession, *, livemode: bool) -> Sequence[Unread]:
    found = await session.execute(_UNREAD, {"types": list(TYPES), "livemode": livemode})
    return [Unread(row.id, row.event_id) for row in found]


async def apply(session: AsyncSession, arrived: Unread, report: MeterErrorReport) -> tuple[list[str], int]:
    """Mark the events it names as failed; answers their ids, and how many more it only counts.

    A report names but some of the events of each kind. The others show as a difference when totals are compared.
    """
    failed: list[str] = []
    total = 0
    for errors in report.errors:
        total += errors.count
        found = await session.scalars(_FAIL, {"code": errors.code, "ids": list(errors.identifiers)})
        failed += found.all()
    if failed:
        await session.execute(_WITHDRAW, {"ids": [correction_id(id) for id in failed]})
    await session.execute(_READ, {"id": arrived.row})
    return failed, max(total - len(failed), 0)
