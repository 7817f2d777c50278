"""Pausing: Stripe's own pause stops service and billing; pausing the collection stops only the latter."""

from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.errors import ConflictError, InvalidRequestError
from app.provider.objects import Snapshot, Subscription
from app.provider.protocol import BillingProvider
from app.provider.subscription_protocol import CollectionPause
from app.services.mirror import Origin
from app.services.subscriptions import bills, scheduling
from app.services.subscriptions.bills import Bill, Outcome
from app.services.subscriptions.following import carry_out
from app.values import unix_now

PauseBehavior = CollectionPause | Literal["pause"]
_PAUSABLE = frozenset({"trialing", "active"})


async def pause(
    session: AsyncSession,
    provider: BillingProvider,
    subscription: models.Subscription,
    *,
    behavior: PauseBehavior,
    resumes_at: int | None,
    idempotency_key: str,
    actor: str,
) -> models.Subscription:
    """Stop billing for a while.

    `pause` makes the status paused and credits unused time; the other behaviors leave status and access, and say what
    becomes of invoices meanwhile. `resumes_at` (unix seconds) ends these by itself.

    Raises ConflictError where it is paused already or can't be. What is past_due can't be by `pause`: Stripe would
    credit time that nobody has paid for, and with that credit ending the pause would cost nothing.
    """
    if subscription.status not in (_PAUSABLE if behavior == "pause" else _PAUSABLE | {"past_due"}):
        raise ConflictError(
            f"A subscription that is {subscription.status} can't be paused.", code="subscription_not_pausable"
        )
    if resumes_at is not None and behavior == "pause":
        raise InvalidRequestError(
            "Stripe's own pause lasts until it is ended; only a pause of the collection ends by itself.",
            code="resumes_at_not_supported",
            param="resumes_at",
        )
    if resumes_at is not None and resumes_at <= unix_now():
        raise InvalidRequestError("This is not in the future.", code="not_in_the_future", param="resumes_at")
    stripe_id = subscription.stripe_id

    async def call() -> Snapshot[Subscription]:
        if behavior != "pause":
            return await provider.set_pause_collection(
                stripe_id, behavior=behavior, resumes_at=resumes_at, idempotency_key=idempotency_key
            )
        await scheduling.release_before(provider, subscription, idempotency_key=idempotency_key)
        return await provider.pause_subscription(stripe_id, idempotency_key=idempotency_key)

    return await carry_out(session, provider, subscription, call, Origin(actor=actor))


async def unpause(
    session: AsyncSession,
    provider: BillingProvider,
    subscription: models.Subscription,
    *,
    idempotency_key: str,
    actor: str,
) -> Outcome:
    """End either kind. After Stripe's own a new period begins and is billed at once.

    Raises ConflictError where it isn't paused.
    """
    stripe_id, paused = subscription.stripe_id, subscription.status == "paused"
    uncollected = not paused and subscription.pause_collection is not None
    former = subscription.latest_invoice if paused else None
    bill: Bill | None = None

    async def call() -> Snapshot[Subscription]:
        nonlocal bill
        if uncollected:
            return await provider.set_pause_collection(stripe_id, behavior=None, idempotency_key=idempotency_key)
        try:
            # Also where it isn't paused as far as we know: Stripe repeats its answer to an earlier try of this request.
            shown = await provider.resume_subscription(stripe_id, idempotency_key=idempotency_key)
        except ConflictError as error:
            if paused or error.retryable:
                raise
            raise ConflictError("The subscription is not paused.", code="subscription_not_paused") from error
        if shown.object.latest_invoice not in {None, former}:
            bill = await bills.fetch(session, provider, str(shown.object.latest_invoice))
        return shown

    origin = Origin(actor=actor)
    row = await carry_out(session, provider, subscription, call, origin)
    return await bills.store(session, row, bill, origin)
