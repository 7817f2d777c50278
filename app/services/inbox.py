"""The inbox: every event of Stripe's, and what became of it."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFoundError
from app.models import Customer, StripeEvent


async def list_events(
    session: AsyncSession,
    *,
    status: str | None,
    type: str | None,
    customer: str | None,
    limit: int,
    starting_after: str | None,
) -> list[StripeEvent]:
    """Newest first, up to `limit` + 1 rows to tell if there is more; `customer` is a user id or a Stripe id.

    `starting_after` is an event id. Raises NotFoundError for one that isn't known.
    """
    query = select(StripeEvent).order_by(StripeEvent.id.desc()).limit(limit + 1)
    conditions: list[Any] = []
    if status is not None:
        conditions.append(StripeEvent.status == status)
    if type is not None:
        conditions.append(StripeEvent.type == type)
    if customer is not None:
        stripe_ids = select(Customer.stripe_id).where(Customer.user_id == customer)
        conditions.append((StripeEvent.key == customer) | StripeEvent.key.in_(stripe_ids))
    if starting_after is not None:
        last = await session.scalar(select(StripeEvent.id).where(StripeEvent.event_id == starting_after).limit(1))
        if last is None:
            raise NotFoundError("There is no such event.", code="event_not_found", param="starting_after")
        conditions.append(StripeEvent.id < last)
    return list((await session.scalars(query.where(*conditions))).all())
