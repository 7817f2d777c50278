"""Ending a subscription, now or with its period, with or without its money back, and taking that back."""

from typing import Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import ConflictError
from app.provider.objects import Snapshot, Subscription
from app.provider.protocol import BillingProvider
from app.provider.subscription_objects import InvoicePreview
from app.services.mirror import Origin
from app.services.subscriptions import scheduling
from app.services.subscriptions.following import carry_out

RefundWish = Literal["none", "prorated", "full"]
GIVEN_BACK_FOR = "canceled_subscription"
"""Where a refund's metadata says which subscription's end it was made for."""
_UNPAID = frozenset({"incomplete", "past_due", "unpaid"})


async def cancel(
    session: AsyncSession,
    provider: BillingProvider,
    subscription: models.Subscription,
    *,
    at_period_end: bool,
    reason: str | None,
    feedback: str | None = None,
    idempotency_key: str,
    actor: str,
) -> models.Subscription:
    """End it now, or when the period that is paid for ends. Doing it twice is no error.

    `reason` is in the customer's own words, `feedback` one of Stripe's (`cancellation_details`).
    """
    if at_period_end and subscription.ends_with_period:
        return subscription
    stripe_id = subscription.stripe_id

    async def call() -> Snapshot[Subscription]:
        await scheduling.release_before(provider, subscription, idempotency_key=idempotency_key)
        if at_period_end:
            return await provider.set_cancel_at_period_end(
                stripe_id, cancel=True, reason=reason, feedback=feedback, idempotency_key=idempotency_key
            )
        return await provider.cancel_subscription(
            stripe_id, reason=reason, feedback=feedback, idempotency_key=idempotency_key
        )

    return await carry_out(session, provider, subscription, call, Origin(actor=actor))


async def refund(
    session: AsyncSession, provider: BillingProvider, subscription: models.Subscription, how: RefundWish
) -> int:
    """Give back the last payment, or its part for unused time, before a subscription is canceled now.

    Answers how much, in minor units. There is one such refund per subscription, however often it is tried: its key is
    the subscription's, and when Stripe has forgotten that, after a day, our row tells of it.
    Raises ConflictError when nothing was paid, `prorated` also where the running period wasn't.
    """
    if how == "none":
        return 0
    nothing = ConflictError("There is no payment to give back.", code="nothing_to_refund")
    stripe_id = subscription.stripe_id
    if how == "prorated" and subscription.status in _UNPAID:  # Stripe would credit time that nobody has paid for
        raise nothing
    invoice = await session.scalar(
        select(models.Invoice.stripe_id)
        .where(
            models.Invoice.subscription == stripe_id, models.Invoice.status == "paid", models.Invoice.amount_paid > 0
        )
        .order_by(models.Invoice.created.desc())
        .limit(1)
    )
    await release(session)
    intent = None if invoice is None else await provider.retrieve_paying_intent(invoice)
    paid = None if intent is None else (await provider.retrieve_payment_intent(intent)).object
    if paid is None or paid.latest_charge is None:
        raise nothing
    charge = (await provider.retrieve_charge(paid.latest_charge)).object
    if (given := await _given_back(session, charge.id, stripe_id)) is not None:
        return given
    left = charge.amount_captured - charge.amount_refunded
    amount = None  # all that is left
    if how == "prorated":
        amount = min(left, _unused(await provider.preview_cancellation(stripe_id)))
        if amount <= 0:
            return 0
    try:
        made = await provider.create_refund(
            charge=charge.id,
            amount=amount,
            reason="requested_by_customer",
            metadata={GIVEN_BACK_FOR: stripe_id},
            idempotency_key=f"billhook-cancel-refund-{stripe_id}",
        )
    except ConflictError as error:
        if error.code == "idempotency_key_reused":
            return charge.amount_refunded  # an earlier try, some seconds ago, came to another amount: it stands
        if left > 0:
            raise
        return 0
    return made.object.amount


async def _given_back(session: AsyncSession, charge: str, subscription: str) -> int | None:
    given = await session.scalar(
        select(models.Refund.amount)
        .where(
            models.Refund.charge == charge,
            models.Refund.stripe_metadata[GIVEN_BACK_FOR].astext == subscription,
            models.Refund.status.not_in(("failed", "canceled")),
        )
        .limit(1)
    )
    await release(session)
    return given


def _unused(preview: InvoicePreview | None) -> int:
    """What Stripe would credit for unused time, taxes included where nothing else stands on the invoice.

    Changes whose proration waits for the next invoice stand there too: what they cost was never paid.
    """
    if preview is None:
        return 0
    if all(line.proration for line in preview.lines):
        return -preview.total
    return -sum(line.amount for line in preview.lines if line.proration)


async def resume(
    session: AsyncSession,
    provider: BillingProvider,
    subscription: models.Subscription,
    *,
    idempotency_key: str,
    actor: str,
) -> models.Subscription:
    """Take back a cancellation, or another change, that waits. Raises ConflictError when none does."""
    if subscription.cancel_at is None and not subscription.cancel_at_period_end:
        if subscription.schedule is not None:
            return await scheduling.withdraw(
                session, provider, subscription, idempotency_key=idempotency_key, actor=actor
            )
        raise ConflictError("The subscription is not set to cancel.", code="subscription_not_canceling")
    stripe_id = subscription.stripe_id

    async def call() -> Snapshot[Subscription]:
        # A schedule may be what ends it: then Stripe takes no other word for that.
        await scheduling.release_before(provider, subscription, idempotency_key=idempotency_key)
        return await provider.set_cancel_at_period_end(stripe_id, cancel=False, idempotency_key=idempotency_key)

    return await carry_out(session, provider, subscription, call, Origin(actor=actor))
