"""Hosted Checkout: selling a plan once, however many tabs, clicks and retries there are."""

import hashlib
import json
from typing import Any

from redis.asyncio import Redis
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import ConflictError, NotFoundError
from app.provider.protocol import BillingProvider, CheckoutSession, Customer, Snapshot
from app.redis import courtesy_lock
from app.services import catalog, customers, invoices, mirror, payment_methods, subscriptions
from app.services.catalog import Catalog
from app.services.customers import Buyer
from app.services.mirror import NO_ROW, AsOf, Origin

LOCK_WAIT_SECONDS = 5.0


class CheckoutInProgressError(ConflictError):
    """Two requests for different things met; one of them won."""

    code = "checkout_in_progress"
    retryable = True


async def create_session(
    session: AsyncSession,
    provider: BillingProvider,
    redis: Redis,
    plans: Catalog,
    *,
    user: Buyer,
    plan: str | None,
    price_id: str | None,
    quantity: int,
    success_url: str,
    cancel_url: str,
    promotion_code: str | None,
) -> models.CheckoutSession:
    """An open Checkout session for the plan: the one already open for the same thing, else a new one.

    Raises ConflictError `already_subscribed` for a customer with a live subscription: plans are changed, not bought
    twice.
    """
    price = await catalog.price_for(session, plans, plan=plan, price_id=price_id)
    await _refuse_subscriber(session, user)
    customer = await customers.find_for_user(session, user.user_id)
    trial_days = plans.plan(price.plan).trial_days
    request = {
        "price": price.stripe_id,
        "quantity": quantity,
        "success_url": success_url,
        "cancel_url": cancel_url,
        "promotion_code": promotion_code,
        "trial_period_days": trial_days if trial_days and not (customer and customer.trial_used) else None,
    }
    async with courtesy_lock(redis, f"checkout:{user.user_id}", wait=LOCK_WAIT_SECONDS):
        return await _open_or_reuse(session, provider, user=user, customer=customer, plan=price.plan, request=request)


async def _refuse_subscriber(session: AsyncSession, user: Buyer) -> None:
    if await subscriptions.live(session, user.user_id):
        raise ConflictError(
            "This customer already has a subscription. Change its plan instead of buying another.",
            code="already_subscribed",
        )


async def _open_or_reuse(
    session: AsyncSession,
    provider: BillingProvider,
    *,
    user: Buyer,
    customer: models.Customer | None,
    plan: str,
    request: dict[str, Any],
) -> models.CheckoutSession:
    """All of Stripe's part first, then our writes.

    Without the lock two requests may get here at once. The same request derives the same idempotency key, so Stripe
    gives both one session; of two different ones the unique index lets one in, and the other is told to try again.
    """
    made: Snapshot[Customer] | None = None
    if customer is None:
        made = await customers.create_at_stripe(session, provider, user)
        stripe_customer, opened, former = made.object.id, None, 0
    else:
        stripe_customer = customer.stripe_id
        opened, former = await _find_open(session, customer)
    closed: Snapshot[CheckoutSession] | None = None
    if opened is not None:
        await release(session)
        shown = await provider.retrieve_checkout_session(opened.stripe_id)
        if shown.object.status == "open":
            if opened.request == request:
                return opened
            shown = await _expire(provider, opened.stripe_id)
        if shown.object.status == "complete":
            raise ConflictError("This customer has just subscribed.", code="already_subscribed")
        closed = shown
    await release(session)
    digest = hashlib.sha256(json.dumps([stripe_customer, former, request], sort_keys=True).encode()).hexdigest()
    snapshot = await provider.create_subscription_session(
        customer=stripe_customer,
        price=request["price"],
        quantity=request["quantity"],
        success_url=request["success_url"],
        cancel_url=request["cancel_url"],
        client_reference_id=user.user_id,
        trial_period_days=request["trial_period_days"],
        promotion_code=request["promotion_code"],
        metadata={customers.USER_METADATA: user.user_id, catalog.PLAN_METADATA: plan},
        idempotency_key=f"billhook-checkout-{digest[:40]}",
    )
    origin = Origin(actor=f"user:{user.user_id}")
    if made is not None:
        await customers.sync(session, made.object, as_of=AsOf(at=made.at, revision=NO_ROW), origin=origin)
    if opened is not None and closed is not None:
        await sync(session, closed.object, as_of=AsOf(at=closed.at, revision=opened.revision), origin=origin)
    await sync(
        session,
        snapshot.object,
        as_of=AsOf(at=snapshot.at, revision=NO_ROW),
        origin=origin,
        request=request,
    )
    row = await find(session, snapshot.object.id)
    if row is None or not row.ours:
        raise CheckoutInProgressError("Another checkout is being opened for this customer.")
    return row


async def _expire(provider: BillingProvider, stripe_id: str) -> Snapshot[CheckoutSession]:
    try:
        return await provider.expire_checkout_session(stripe_id)
    except ConflictError:  # paid, or expired by itself, since we looked
        return await provider.retrieve_checkout_session(stripe_id)


async def _find_open(session: AsyncSession, customer: models.Customer) -> tuple[models.CheckoutSession | None, int]:
    """The session that is open, and how many there have been: read by one statement, so that they belong together.

    The number tells the next session's key from those before it, and is the same for everybody who races for it.
    """
    rows = (
        await session.scalars(select(models.CheckoutSession).where(models.CheckoutSession.customer_id == customer.id))
    ).all()
    opened = [row for row in rows if row.ours and row.mode == "subscription" and row.status == "open"]
    return opened[0] if opened else None, len(rows)


async def find(session: AsyncSession, stripe_id: str) -> models.CheckoutSession | None:
    return await session.scalar(
        select(models.CheckoutSession)
        .where(models.CheckoutSession.stripe_id == stripe_id)
        .execution_options(populate_existing=True)
    )


async def get_session(
    session: AsyncSession, provider: BillingProvider, *, user_id: str, session_id: str
) -> models.CheckoutSession:
    """The user's session as Stripe shows it this moment, its subscription stored with it.

    The page a buyer lands on may ask before any webhook has arrived; the answer is right all the same.
    """
    row = await session.scalar(
        select(models.CheckoutSession)
        .join(models.Customer, models.Customer.id == models.CheckoutSession.customer_id)
        .where(models.CheckoutSession.stripe_id == session_id, models.Customer.user_id == user_id)
    )
    if row is None:
        raise NotFoundError("There is no such checkout session.", code="checkout_session_not_found")
    if not await _is_settled(session, row):
        await _refresh(session, provider, row, Origin(actor=f"user:{user_id}"))
        await session.refresh(row)
    return row


async def _is_settled(session: AsyncSession, row: models.CheckoutSession) -> bool:
    if row.status == "expired":
        return True
    if row.status != "complete" or row.payment_status == "unpaid":
        return False
    return row.subscription is None or await mirror.find_row(session, models.Subscription, row.subscription) is not None


async def _refresh(
    session: AsyncSession, provider: BillingProvider, row: models.CheckoutSession, origin: Origin
) -> None:
    """Fetch the session and what it made, then store all of it. Whatever a webhook changed meanwhile stands."""
    revision = row.revision
    await release(session)
    shown = await provider.retrieve_checkout_session(row.stripe_id)
    made = shown.object.subscription
    subscription = invoice = method = None
    revisions = {}
    if made is not None:
        revisions["subscription"] = await mirror.revision_of(session, models.Subscription, made)
        await release(session)
        subscription = await provider.retrieve_subscription(made)
        if (bill := subscription.object.latest_invoice) is not None:
            revisions["invoice"] = await mirror.revision_of(session, models.Invoice, bill)
            await release(session)
            invoice = await provider.retrieve_invoice(bill)
        if (card := subscription.object.default_payment_method) is not None:
            revisions["method"] = await mirror.revision_of(session, models.PaymentMethod, card)
            await release(session)
            method = await provider.retrieve_payment_method(card)
    if subscription is not None:
        as_of = AsOf(at=subscription.at, revision=revisions["subscription"])
        await subscriptions.sync(session, subscription.object, as_of=as_of, origin=origin)
    if invoice is not None:
        as_of = AsOf(at=invoice.at, revision=revisions["invoice"])
        await invoices.sync(session, invoice.object, as_of=as_of, origin=origin)
    if method is not None:
        as_of = AsOf(at=method.at, revision=revisions["method"])
        await payment_methods.sync(session, method.object, as_of=as_of, origin=origin)
    await sync(session, shown.object, as_of=AsOf(at=shown.at, revision=revision), origin=origin)


async def sync(
    session: AsyncSession,
    checkout: CheckoutSession,
    *,
    as_of: AsOf,
    origin: Origin,
    request: dict[str, Any] | None = None,
) -> bool:
    """Bring our row in line with Stripe's session; False when `as_of` is stale.

    With `request`, it is one we made ourselves.
    """
    customer = None if checkout.customer is None else await customers.of_object(session, checkout.customer)
    values = {
        "customer_id": customer and customer.id,
        "livemode": checkout.livemode,
        "created": checkout.created,
        "mode": checkout.mode,
        "status": checkout.status,
        "payment_status": checkout.payment_status,
        "url": checkout.url,
        "expires_at": checkout.expires_at,
        "subscription": checkout.subscription,
        "payment_intent": checkout.payment_intent,
        "invoice": checkout.invoice,
        "currency": checkout.currency,
        "amount_total": checkout.amount_total,
        "stripe_metadata": dict(checkout.metadata),
    }
    ours = {} if request is None else {"ours": True, "request": request}
    return await mirror.upsert(
        session,
        models.CheckoutSession,
        checkout.id,
        values,
        as_of=as_of,
        origin=origin,
        only_on_insert=ours,
    )
