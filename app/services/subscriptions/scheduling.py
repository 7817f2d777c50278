"""Changes that wait for the end of the period, and taking them back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import BillingError, ConflictError, UnavailableError
from app.provider.objects import Snapshot, Subscription
from app.provider.protocol import BillingProvider
from app.provider.subscription_objects import ItemWish, SubscriptionSchedule
from app.services import mirror
from app.services.mirror import NO_ROW, AsOf, Origin
from app.services.subscriptions import schedules
from app.services.subscriptions.following import carry_out

_PHASES = 2
"""Of the schedules made here: what runs, and what is to come."""


async def schedule(
    session: AsyncSession,
    provider: BillingProvider,
    subscription: models.Subscription,
    wish: ItemWish,
    *,
    idempotency_key: str,
    actor: str,
) -> models.Subscription:
    """Have one item be another from the next period on. What was scheduled before gives way to it."""
    stripe_id, former = subscription.stripe_id, subscription.schedule
    # Where `former` was made by an earlier try of this very request, its answers must not be repeated: it is released.
    key = idempotency_key if former is None else f"{idempotency_key}-{former}"
    made: tuple[Snapshot[SubscriptionSchedule], int] | None = None

    async def call() -> Snapshot[Subscription]:
        nonlocal made
        if former is not None:
            await provider.release_subscription_schedule(former, idempotency_key=f"{key}-release")
        # As Stripe has them now: a schedule made of what they were would set them back.
        others = [
            ItemWish(price=item.price.id, quantity=None if item.price.usage_type == "metered" else item.quantity)
            for item in (await provider.retrieve_subscription(stripe_id)).object.items
            if item.id != wish.id
        ]
        shown = await provider.schedule_change(stripe_id, items=[wish, *others], idempotency_key=key)
        made = await _newest(session, provider, shown)
        return await provider.retrieve_subscription(stripe_id)

    row = await carry_out(session, provider, subscription, call, Origin(actor=actor))
    await _store(session, made, actor)
    return row


async def withdraw(
    session: AsyncSession,
    provider: BillingProvider,
    subscription: models.Subscription,
    *,
    idempotency_key: str,
    actor: str,
) -> models.Subscription:
    """Leave everything as it is. Raises ConflictError where nothing is scheduled."""
    stripe_id, held = subscription.stripe_id, subscription.schedule
    if held is None:
        raise ConflictError("No change is scheduled.", code="no_scheduled_change")
    released: tuple[Snapshot[SubscriptionSchedule], int] | None = None

    async def call() -> Snapshot[Subscription]:
        nonlocal released
        shown = await provider.release_subscription_schedule(held, idempotency_key=idempotency_key)
        released = await _newest(session, provider, shown)
        return await provider.retrieve_subscription(stripe_id)

    row = await carry_out(session, provider, subscription, call, Origin(actor=actor))
    await _store(session, released, actor)
    return row


async def release_before(provider: BillingProvider, subscription: models.Subscription, *, idempotency_key: str) -> None:
    """Let go of whatever drives the subscription, so that it can be canceled, paused or changed itself.

    The webhook tells our tables of it.
    """
    if subscription.schedule is not None:
        await provider.release_subscription_schedule(
            subscription.schedule, idempotency_key=f"{idempotency_key}-release"
        )


@asynccontextmanager
async def released(
    provider: BillingProvider, schedule: str | None, subscription: str, *, idempotency_key: str
) -> AsyncIterator[None]:
    """Let go of `schedule` while the subscription is changed itself, and have it again where Stripe refuses that."""
    if schedule is None:
        yield
        return
    held = await provider.release_subscription_schedule(schedule, idempotency_key=f"{idempotency_key}-release")
    try:
        yield
    except UnavailableError:
        raise  # nobody can know what came of it
    except BillingError as error:
        phases = held.object.phases
        if error.code != "idempotency_key_in_use" and len(phases) == _PHASES:
            items = [ItemWish(price=price, quantity=quantity) for price, quantity in phases[-1].items]
            await provider.schedule_change(subscription, items=items, idempotency_key=f"{idempotency_key}-again")
        raise


async def _newest(
    session: AsyncSession, provider: BillingProvider, shown: Snapshot[SubscriptionSchedule]
) -> tuple[Snapshot[SubscriptionSchedule], int]:
    """The schedule, and our row's revision from before Stripe was asked: webhooks of it may have come meanwhile."""
    id = shown.object.id
    revision = await mirror.revision_of(session, models.SubscriptionSchedule, id)
    await release(session)
    return (shown if revision == NO_ROW else await provider.retrieve_subscription_schedule(id)), revision


async def _store(session: AsyncSession, made: tuple[Snapshot[SubscriptionSchedule], int] | None, actor: str) -> None:
    if made is not None:
        shown, revision = made
        as_of = AsOf(at=shown.at, revision=revision)
        await schedules.sync(session, shown.object, as_of=as_of, origin=Origin(actor=actor))
