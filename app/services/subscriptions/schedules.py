"""Following Stripe's subscription schedules, and what they say a subscription will be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.provider.subscription_objects import SubscriptionSchedule
from app.services import catalog, customers, mirror
from app.services.mirror import AsOf, Origin

DRIVING = ("active", "not_started")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledChange:
    """What a subscription becomes `at` (unix seconds); `plan` None for a price that plans.yaml doesn't know."""

    schedule: str
    at: int
    price: str
    quantity: int | None
    plan: str | None


async def sync(session: AsyncSession, schedule: SubscriptionSchedule, *, as_of: AsOf, origin: Origin) -> bool:
    """Bring our row in line with Stripe's schedule; False when `as_of` is stale.

    Raises UnknownCustomerError before its customer is stored.
    """
    if schedule.customer is None:
        raise ValueError(f"schedule {schedule.id} has no customer")
    customer = await customers.of_object(session, schedule.customer)
    values = columns(schedule, customer.id)
    return await mirror.upsert(session, models.SubscriptionSchedule, schedule.id, values, as_of=as_of, origin=origin)


def columns(schedule: SubscriptionSchedule, customer_id: UUID) -> dict[str, Any]:
    """What our row says when it shows this."""
    return {
        "customer_id": customer_id,
        "livemode": schedule.livemode,
        "created": schedule.created,
        "subscription": schedule.subscription,
        "status": schedule.status,
        "end_behavior": schedule.end_behavior,
        "phases": [
            {
                "start": phase.start,
                "end": phase.end,
                "items": [{"price": price, "quantity": quantity} for price, quantity in phase.items],
            }
            for phase in schedule.phases
        ],
        "stripe_metadata": dict(schedule.metadata),
    }


async def upcoming(
    session: AsyncSession, subscriptions: Sequence[models.Subscription], *, now: int
) -> Mapping[str, ScheduledChange]:
    """What these subscriptions become next, by their ids; those that stay as they are have no entry."""
    ids = [row.schedule for row in subscriptions if row.schedule is not None]
    if not ids:
        return {}
    found = await session.scalars(
        select(models.SubscriptionSchedule).where(
            models.SubscriptionSchedule.stripe_id.in_(ids), models.SubscriptionSchedule.status.in_(DRIVING)
        )
    )
    held = {row.stripe_id: row.price for row in subscriptions}
    coming = {row.subscription: (row.stripe_id, _next_phase(row.phases, now)) for row in found if row.subscription}
    items = {
        id: (schedule, phase["start"], _item_of(phase, held.get(id)))
        for id, (schedule, phase) in coming.items()
        if phase is not None
    }
    plans = await catalog.plans_of_prices(session, [item["price"] for _, _, item in items.values()])
    return {
        id: ScheduledChange(
            schedule=schedule, at=at, price=item["price"], quantity=item["quantity"], plan=plans.get(item["price"])
        )
        for id, (schedule, at, item) in items.items()
    }


def _next_phase(phases: Sequence[Mapping[str, Any]], now: int) -> Mapping[str, Any] | None:
    return next((phase for phase in phases if phase["start"] > now and phase["items"]), None)


def _item_of(phase: Mapping[str, Any], price: str | None) -> Mapping[str, Any]:
    """The item that takes the place of the subscription's first: the one with another price, else the first."""
    items: Sequence[Mapping[str, Any]] = phase["items"]
    return items[0] if len(items) == 1 else next((item for item in items if item["price"] != price), items[0])
