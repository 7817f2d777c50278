"""Following Stripe's subscriptions: what they become in our tables, by webhook and after our own changes."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import UnavailableError
from app.provider.objects import Snapshot, Subscription
from app.provider.subscription_protocol import SubscriptionProvider
from app.services import catalog, customers, mirror
from app.services.mirror import AsOf, Origin

_SYNC_ROUNDS = 5


async def carry_out(
    session: AsyncSession,
    provider: SubscriptionProvider,
    subscription: models.Subscription,
    call: Callable[[], Awaitable[Snapshot[Subscription]]],
    origin: Origin,
) -> models.Subscription:
    """Make `call`, which changes the subscription at Stripe, and store what it answers.

    If a webhook overtakes us meanwhile, Stripe is asked again: which of the two states is newer can't be told.
    """
    revision = subscription.revision
    await release(session)
    snapshot = await call()
    for _ in range(_SYNC_ROUNDS):
        await customers.lock(session, snapshot.object.customer)
        if await sync(session, snapshot.object, as_of=AsOf(at=snapshot.at, revision=revision), origin=origin):
            await session.refresh(subscription)
            return subscription
        revision = await mirror.revision_of(session, models.Subscription, subscription.stripe_id)
        await release(session)
        snapshot = await provider.retrieve_subscription(subscription.stripe_id)
    raise UnavailableError("The subscription is changing too fast; try again.", retry_after=1)


async def sync(session: AsyncSession, subscription: Subscription, *, as_of: AsOf, origin: Origin) -> bool:
    """Bring our row in line with Stripe's subscription; False when `as_of` is stale.

    Raises UnknownCustomerError before its customer is stored.
    """
    customer = await customers.of_object(session, subscription.customer)
    plans = await catalog.plans_of_prices(session, [item.price.id for item in subscription.items])
    values = columns(subscription, customer.id, plans)
    applied = await mirror.upsert(session, models.Subscription, subscription.id, values, as_of=as_of, origin=origin)
    if applied and subscription.trial_end is not None and not customer.trial_used:
        await session.execute(update(models.Customer).where(models.Customer.id == customer.id).values(trial_used=True))
    return applied


def columns(subscription: Subscription, customer_id: UUID, plans: Mapping[str, str]) -> dict[str, Any]:
    """What our row says when it shows this; `plans` by price id."""
    items = [
        {
            "id": item.id,
            "price": item.price.id,
            "quantity": item.quantity,
            "unit_amount": item.price.unit_amount,
            "lookup_key": item.price.lookup_key,
            "plan": catalog.plan_of_price(item.price, plans),
        }
        for item in subscription.items
    ]
    first = subscription.items[0] if subscription.items else None
    return {
        "customer_id": customer_id,
        "livemode": subscription.livemode,
        "created": subscription.created,
        "status": subscription.status,
        "price": first and first.price.id,
        "quantity": first and first.quantity,
        "currency": subscription.currency,
        "unit_amount": first and first.price.unit_amount,
        "interval": first and first.price.interval,
        "items": items,
        "plan": next((item["plan"] for item in items if item["plan"]), None),
        "current_period_start": subscription.current_period_start,
        "current_period_end": subscription.current_period_end,
        "cancel_at_period_end": subscription.cancel_at_period_end,
        "cancel_at": subscription.cancel_at,
        "canceled_at": subscription.canceled_at,
        "ended_at": subscription.ended_at,
        "trial_start": subscription.trial_start,
        "trial_end": subscription.trial_end,
        "pause_collection": subscription.pause_collection,
        "default_payment_method": subscription.default_payment_method,
        "latest_invoice": subscription.latest_invoice,
        "collection_method": subscription.collection_method,
        "pause_resumes_at": subscription.pause_resumes_at,
        "paused_reason": subscription.paused_reason,
        "schedule": subscription.schedule,
        "pending_update_expires_at": subscription.pending_update_expires_at,
        "stripe_metadata": dict(subscription.metadata),
    }
