"""What was used of a meter in a period by our own totals, and under whose name."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import override

from app.models import UsageLease, UsageTotal

# Usage may have come up under the new name already: then it is added.
_MOVE_TOTALS = text("""
WITH gone AS (DELETE FROM usage_totals WHERE subject = :subject RETURNING *)
INSERT INTO usage_totals AS kept (subject, meter, period_start, period_end, used, events, latest, allowed)
SELECT :to, meter, period_start, period_end, used, events, latest, allowed FROM gone
ON CONFLICT (subject, meter, period_start) DO UPDATE
   SET used = kept.used + EXCLUDED.used, events = kept.events + EXCLUDED.events,
       latest = greatest(kept.latest, EXCLUDED.latest)
""")


class Period(NamedTuple):
    """From `start` (inclusive) to `end` (exclusive), unix seconds."""

    start: int
    end: int

    @override
    def __contains__(self, moment: object) -> bool:
        return isinstance(moment, int) and self.start <= moment < self.end


def month_of(moment: int) -> Period:
    """The calendar month in UTC: the period of those who have no billing period."""
    first = datetime.fromtimestamp(moment, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    year, month = divmod(first.year * 12 + first.month, 12)
    return Period(int(first.timestamp()), int(first.replace(year=year, month=month + 1).timestamp()))


def period_at(now: int, *, start: int | None, end: int | None) -> Period:
    """The billing period that begins at `start`, or follows it at that distance; without one, the calendar month.

    Of a renewal Stripe tells when it has happened. Until we hear of it the next period begins where the last ended.
    """
    if start is None or end is None or not start < end or now < start:
        return month_of(now)
    length = end - start
    start += (now - start) // length * length
    return Period(start, start + length)


async def used(session: AsyncSession, subject: str, meter: str, period: Period) -> int:
    """How much a user (or a customer who is no user's, by Stripe id) used of a meter in a period."""
    found = await session.scalar(
        select(UsageTotal.used).where(
            UsageTotal.subject == subject, UsageTotal.meter == meter, UsageTotal.period_start == period.start
        )
    )
    return found or 0


async def history(session: AsyncSession, subject: str, *, current: Period, limit: int) -> Sequence[UsageTotal]:
    """What was used in other periods than this, newest first; the end of one may lie in this, if it ended early."""
    found = await session.scalars(
        select(UsageTotal)
        .where(UsageTotal.subject == subject, UsageTotal.period_start != current.start)
        .order_by(UsageTotal.period_start.desc(), UsageTotal.meter)
        .limit(limit)
    )
    return found.all()


async def move(session: AsyncSession, subject: str, to: str) -> None:
    """Have what `subject` used in all be used by `to`. The events themselves are the caller's to rename."""
    await session.execute(_MOVE_TOTALS, {"subject": subject, "to": to})
    await session.execute(delete(UsageLease).where(UsageLease.subject == subject))
