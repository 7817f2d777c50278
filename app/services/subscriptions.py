"""Subscriptions: what a customer has, cancelling and resuming, and following Stripe."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import ConflictError, NotFoundError, UnavailableError
from app.provider.objects import Snapshot, Subscription
from app.provider.protocol import SubscriptionProvider
from app.services import catalog, customers, mirror
from app.services.mirror import AsOf, Origin

ENDED = ("canceled", "incomplete_expired")
_SYNC_ROUNDS = 5


async def live(session: AsyncSession, user_id: str) -> list[models.Subscription]:
    """The user's subscriptions that have not ended, newest first."""
    found = await session.scalars(
        select(models.Subscription)
        .join(models.Customer, models.Customer.id == models.Subscription.customer_id)
        .where(
            models.Customer.user_id == user_id,
            ~models.Customer.deleted,
            ~models.Subscription.deleted,
            models.Subscription.status.not_in(ENDED),
        )
        .order_by(models.Subscription.created.desc(), models.Subscription.stripe_id)
    )
    return list(found.all())


async def current(session: AsyncSession, user_id: str) -> models.Subscription | None:
    """The subscription a customer means by "my subscription": the newest live one, else the last that ended."""
    if alive := await live(session, user_id):
        return alive[0]
    return await session.scalar(
        select(models.Subscription)
        .join(models.Customer, models.Customer.id == models.Subscription.customer_id)
        .where(models.Customer.user_id == user_id, ~models.Customer.deleted)
        .order_by(models.Subscription.created.desc())
        .limit(1)
    )


async def _get_live(session: AsyncSession, user_id: str) -> models.Subscription:
    if not (alive := await live(session, user_id)):
        raise NotFoundError("There is no subscription.", code="subscription_not_found")
    return alive[0]


async def cancel(
    session: AsyncSession,
    provider: SubscriptionProvider,
    *,
    user_id: str,
    at_period_end: bool,
    reason: str | None,
    idempotency_key: str,
    actor: str,
) -> models.Subscription:
    """End the user's subscription now, or when the period that is paid for ends. Doing it twice is no error."""
    subscription = await _get_live(session, user_id)
    if at_period_end and subscription.ends_with_period:
        return subscription
    stripe_id = subscription.stripe_id

    async def call() -> Snapshot[Subscription]:
        if at_period_end:
            return await provider.set_cancel_at_period_end(
                stripe_id, cancel=True, reason=reason, idempotency_key=idempotency_key
            )
        return await provider.cancel_subscription(stripe_id, reason=reason, idempotency_key=idempotency_key)

    return await _change(session, provider, subscription, call, Origin(actor=actor))


async def resume(
    session: AsyncSession, provider: SubscriptionProvider, *, user_id: str, idempotency_key: str, actor: str
) -> models.Subscription:
    """Take back a scheduled cancellation. Raises ConflictError when none is scheduled."""
    subscription = await _get_live(session, user_id)
    if subscription.cancel_at is None and not subscription.cancel_at_period_end:
        raise ConflictError("The subscription is not set to cancel.", code="subscription_not_canceling")
    stripe_id = subscription.stripe_id

    async def call() -> Snapshot[Subscription]:
        return await provider.set_cancel_at_period_end(stripe_id, cancel=False, idempotency_key=idempotency_key)

    return await _change(session, provider, subscription, call, Origin(actor=actor))


async def _change(
    session: AsyncSession,
    provider: SubscriptionProvider,
    subscription: models.Subscription,
    call: Callable[[], Awaitable[Snapshot[Subscription]]],
    origin: Origin,
) -> models.Subscription:
    """Make `call` at Stripe and store what it answers.

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
        "stripe_metadata": dict(subscription.metadata),
    }
