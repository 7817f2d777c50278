"""What was used, and single events, as customers and operators see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFoundError
from app.models import UsageEvent, UsageTotal
from app.services import usage_totals
from app.services.catalog import Catalog
from app.services.usage.ledger import Given, current_period, find_people, limit_of
from app.services.usage_totals import Period

Status = Literal["held", "pending", "sent", "failed", "expired", "canceling", "canceled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Usage of a meter in the period from `period_start` to `period_end` (unix seconds); `limit` None is without."""

    meter: str
    period_start: int
    period_end: int
    used: int
    limit: int | None

    @property
    def remaining(self) -> int | None:
        return None if self.limit is None else max(self.limit - self.used, 0)


async def summarize(
    session: AsyncSession, catalog: Catalog, *, user_id: str, earlier: int, now: int
) -> Sequence[Summary]:
    """Each meter in the current period, then up to `earlier` periods of a meter that are over, newest first."""
    about = Given(id="", meter="", quantity=0, user_id=user_id)
    person = (await find_people(session, catalog, [about], now=now))[user_id, None]
    period = current_period(person.held, now)
    current = [
        Summary(
            meter=meter,
            period_start=period.start,
            period_end=period.end,
            used=await usage_totals.used(session, person.subject, meter, period),
            limit=limit_of(catalog, person.held, meter),
        )
        for meter in catalog.meters
    ]
    over = await usage_totals.history(session, person.subject, current=period, limit=earlier) if earlier else []
    return current + [
        Summary(
            meter=total.meter,
            period_start=total.period_start,
            period_end=_ended(total, period, now),
            used=total.used,
            limit=total.allowed,
        )
        for total in over
    ]


def _ended(total: UsageTotal, current: Period, now: int) -> int:
    """When a period ended that is no longer the current one: early, if a plan was changed or given up in it."""
    return min(total.period_end, current.start if total.period_start < current.start else now)


async def list_events(
    session: AsyncSession,
    *,
    status: Status | None,
    subject: str | None,
    meter: str | None,
    limit: int,
    starting_after: str | None,
) -> Sequence[UsageEvent]:
    """Newest first, up to `limit` + 1 rows to tell if there is more. Raises NotFoundError for an unknown place."""
    query = select(UsageEvent).order_by(UsageEvent.seq.desc()).limit(limit + 1)
    if status is not None:
        query = query.where(UsageEvent.status == status)
    if subject is not None:
        query = query.where(UsageEvent.subject == subject)
    if meter is not None:
        query = query.where(UsageEvent.meter == meter)
    if starting_after is not None:
        last = await session.scalar(select(UsageEvent.seq).where(UsageEvent.id == starting_after))
        if last is None:
            raise NotFoundError("There is no such usage event.", code="usage_event_not_found", param="starting_after")
        query = query.where(UsageEvent.seq < last)
    return (await session.scalars(query)).all()
