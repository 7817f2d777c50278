"""Hosted Checkout: selling a plan once, however many tabs, clicks and retries there are."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from redis.asyncio import Redis
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import ConflictError, NotFoundError
from app.provider.objects import CheckoutSession, Snapshot
from app.provider.protocol import BillingProvider
from app.redis import courtesy_lock
from app.services import catalog, customers, invoices, mirror, payment_methods
from app.services.catalog import Catalog
from app.services.credits import settling
from app.services.customers import Buyer
from app.services.derived_keys import with_derived_key
from app.services.mirror import NO_ROW, AsOf, Origin
from app.services.subscriptions import following, reading, trials

LOCK_WAIT_SECONDS = 5.0
MAX_REFERENCE = 200


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
    interval: str | None = None,
    quantity: int,
    success_url: str,
    cancel_url: str,
    promotion_code: str | None,
    actor: str,
) -> models.CheckoutSession:
    """An open Checkout session for the plan: the one already open for the same thing, else a new one.

    Raises ConflictError `already_subscribed` for a customer with a live subscription: plans are changed, not bought
    twice.
    """
    price = await catalog.price_for(session, plans, plan=plan, price_id=price_id, interval=interval)
    request = {
        "price": price.stripe_id,
        "quantity": quantity,
        "success_url": success_url,
        "cancel_url": cancel_url,
        "promotion_code": promotion_code,
    }
    sold = plans.plan(plan or str(await catalog.plan_of(session, price)))
    order = _Order(user=user, plan=sold.key, trial_days=sold.trial_days, request=request)
    await release(session)  # waiting for the lock must not hold a connection
    async with courtesy_lock(redis, f"checkout:{user.user_id}", wait=LOCK_WAIT_SECONDS):
        return await _open_or_reuse(session, provider, order, Origin(actor=actor))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """`request` is kept with the session: the same again gets the same session back."""

    user: Buyer
    plan: str
    trial_days: int
    request: dict[str, Any]


async def _open_or_reuse(
    session: AsyncSession, provider: BillingProvider, order: _Order, origin: Origin
) -> models.CheckoutSession:
    """All of Stripe's part first, then our writes.

    Without the lock two requests may get here at once. The same request derives the same idempotency key, so Stripe
    gives both one session; of two different ones the unique index lets one in, and the other is told to try again.
    """
    user_id = order.user.user_id
    customer = await customers.find_for_user(session, user_id)
    if customer is not None:
        customers.refuse_deleted(customer)
    opened, former = (None, 0) if customer is None else await _find_open(session, customer)
    # Only now, after looking for an open session: a subscription is stored no later than its session's completion,
    # so whoever finds the session gone finds the subscription there, and its trial.
    await _refuse_subscriber(session, user_id)
    used = await trials.had(session, user_id)
    request = order.request | {"trial_period_days": order.trial_days if order.trial_days and not used else None}
    closed: Snapshot[CheckoutSession] | None = None
    if opened is not None:
        await release(session)
        shown = await provider.retrieve_checkout_session(opened.stripe_id)
        if shown.object.status == "open" and opened.request == request:
            return opened
        closed = shown if shown.object.status != "open" else await _expire(provider, opened.stripe_id)
        _refuse_complete(closed)
    made = await customers.create_at_stripe(session, provider, order.user) if customer is None else None
    stripe_customer = made.object.id if made is not None else customer.stripe_id if customer is not None else ""
    await release(session)
    snapshot = await _create(provider, order, request, customer=stripe_customer, former=former)
    _refuse_complete(snapshot)
    await customers.lock(session, stripe_customer)
    # The other tab may have paid while Stripe was asked. This session has been shown to nobody yet, and never will be.
    await _refuse_subscriber(session, user_id)
    if request["trial_period_days"] and await trials.had(session, user_id):
        raise CheckoutInProgressError("The trial has just been used.")
    if made is not None:
        as_of = AsOf(at=made.at, revision=NO_ROW)
        try:
            await customers.sync(session, made.object, as_of=as_of, origin=origin)
        except customers.UserTakenError as error:
            raise CheckoutInProgressError("This user's customer is being set up.") from error
    if opened is not None and closed is not None:
        await sync(session, closed.object, as_of=AsOf(at=closed.at, revision=opened.revision), origin=origin)
    as_of = AsOf(at=snapshot.at, revision=NO_ROW)
    await sync(session, snapshot.object, as_of=as_of, origin=origin, request=request)
    row = await find(session, snapshot.object.id)
    if row is None or not row.ours:
        raise CheckoutInProgressError("Another checkout is being opened for this customer.")
    return row


async def _refuse_subscriber(session: AsyncSession, user_id: str) -> None:
    if await reading.live(session, user_id):
        raise ConflictError(
            "This customer already has a subscription. Change its plan instead of buying another.",
            code="already_subscribed",
        )


def _refuse_complete(shown: Snapshot[CheckoutSession]) -> None:
    if shown.object.status == "complete":
        raise ConflictError("This customer has just subscribed.", code="already_subscribed")


async def _create(
    provider: BillingProvider, order: _Order, request: dict[str, Any], *, customer: str, former: int
) -> Snapshot[CheckoutSession]:
    """`former` sessions came before: the key of this one must differ from theirs."""
    digest = hashlib.sha256(json.dumps([customer, former, request], sort_keys=True).encode()).hexdigest()

    async def create(key: str) -> Snapshot[CheckoutSession]:
        return await provider.create_subscription_session(
            customer=customer,
            # Stripe takes at most 200 characters here; the metadata has room for any user's id.
            client_reference_id=order.user.user_id if len(order.user.user_id) <= MAX_REFERENCE else None,
            metadata={customers.USER_METADATA: order.user.user_id, catalog.PLAN_METADATA: order.plan},
            idempotency_key=key,
            **request,
        )

    # A crash may have kept an earlier session of this very request from being stored; it may have run out since.
    return await with_derived_key(
        f"billhook-checkout-{digest[:40]}", create, usable=lambda made: made.object.status != "expired"
    )


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
    session: AsyncSession, provider: BillingProvider, *, user_id: str, session_id: str, actor: str
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
        await _refresh(session, provider, row, Origin(actor=actor))
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
    if shown.object.customer is not None:
        await customers.lock(session, shown.object.customer)
    if subscription is not None:
        as_of = AsOf(at=subscription.at, revision=revisions["subscription"])
        await following.sync(session, subscription.object, as_of=as_of, origin=origin)
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
    applied = await mirror.upsert(
        session,
        models.CheckoutSession,
        checkout.id,
        columns(checkout, None if customer is None else customer.id),
        as_of=as_of,
        origin=origin,
        only_on_insert=None if request is None else {"ours": True, "request": request},
    )
    if applied:
        await settling.follow_session(session, checkout, origin=origin)
    return applied


def columns(checkout: CheckoutSession, customer_id: UUID | None) -> dict[str, Any]:
    """What our row says when it shows this."""
    return {
        "customer_id": customer_id,
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
