"""Changing plan, price or quantity: shown first with what it costs, then done exactly so, or at the period's end.

What a change costs follows from the subscription, the price and the moment it is prorated from. So a confirmation asks
Stripe once more for the very same (with the same `proration_date`), and goes on only where nothing has changed.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import Sessions, release
from app.provider.objects import Snapshot, Subscription
from app.provider.protocol import BillingProvider
from app.provider.subscription_objects import InvoicePreview
from app.provider.subscription_protocol import DiscountWish, PaymentBehavior, ProrationBehavior
from app.services.catalog import Catalog
from app.services.mirror import Origin
from app.services.subscriptions import bills, previews, scheduling
from app.services.subscriptions.bills import Bill, Outcome
from app.services.subscriptions.following import carry_out
from app.services.subscriptions.previews import Claim, PreviewStaleError
from app.services.subscriptions.wishes import Change, Side, When, Wish, refuse_former, resolve
from app.values import utcnow

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A preview, as it was kept and as Stripe gave it. The invoice is made `invoice_at` (unix seconds)."""

    preview: models.SubscriptionPreview
    invoice: InvoicePreview
    invoice_at: int | None
    current: Side
    next: Side


async def preview(
    session: AsyncSession,
    provider: BillingProvider,
    catalog: Catalog,
    subscription: models.Subscription,
    wish: Wish,
    *,
    proration: ProrationBehavior,
    at: When,
    pays_at_once: bool = False,
) -> Shown:
    """What a change would cost, kept for half an hour so that it can be confirmed.

    `pays_at_once`: what costs more must not wait for the next invoice, as for customers themselves.
    """
    change, current, following = await resolve(
        session, catalog, subscription, wish, proration=proration, at=at, pays_at_once=pays_at_once
    )
    customer_id, ends = subscription.customer_id, subscription.current_period_end
    await release(session)
    shown = await provider.retrieve_subscription(subscription.stripe_id)
    if (discount := await _discount(provider, wish)) is not None:
        kept: list[DiscountWish] = [{"discount": id} for id in shown.object.discounts]
        change = _with(change, discounts=[*kept, discount])
    invoice = await provider.preview_change(
        subscription.stripe_id,
        items=change.items,
        proration_behavior=change.proration,
        proration_date=None,
        discounts=change.discounts,
    ) or _none(shown.object)
    # Stripe says itself what moment it took for now, also where that is a test clock's.
    moments = [line.period_start for line in invoice.lines if line.proration and line.period_start is not None]
    # Lines of earlier changes may stand there too; this one is prorated from the latest moment, if it is at all.
    prorated = bool(moments) and change.proration != "none"
    change = _with(change, prorated=prorated, replaces=shown.object.schedule)
    row = models.SubscriptionPreview(
        customer_id=customer_id,
        subscription=subscription.stripe_id,
        fingerprint=previews.fingerprint(shown.object),
        change=asdict(change),
        amount_due=invoice.amount_due if change.at_once else 0,
        currency=invoice.currency,
        proration_date=max(moments, default=shown.at),
        expires_at=utcnow() + previews.LASTS,
    )
    session.add(row)
    await session.flush()
    at_second = row.proration_date if change.at_once else ends
    return Shown(preview=row, invoice=invoice, invoice_at=at_second, current=current, next=following)


async def confirm(
    session: AsyncSession,
    sessions: Sessions,
    provider: BillingProvider,
    catalog: Catalog,
    *,
    preview_id: UUID,
    user_id: str | None,
    subscription_id: str | None = None,
    idempotency_key: str,
    actor: str,
) -> Outcome:
    """Do what was shown, and nothing else. `user_id` None is an operator, who may confirm anybody's.

    With `subscription_id`, it must be a preview of that one.
    Raises ConflictError: `preview_stale`, `preview_expired`, `preview_confirmed`, `change_in_progress`.
    """
    claiming = previews.claimed(
        sessions, preview_id, user_id=user_id, subscription_id=subscription_id, by=idempotency_key
    )
    async with claiming as claim:
        change = Change(**claim.preview.change)
        await refuse_former(session, catalog, change)
        subscription = await session.scalar(
            select(models.Subscription).where(models.Subscription.stripe_id == claim.preview.subscription)
        )
        if subscription is None:
            raise PreviewStaleError
        if change.at == "period_end":
            await release(session)
            shown = await provider.retrieve_subscription(subscription.stripe_id)
            if not claim.again and previews.fingerprint(shown.object) != claim.preview.fingerprint:
                raise PreviewStaleError
            outcome = Outcome(
                subscription=await scheduling.schedule(
                    session, provider, subscription, change.items[0], idempotency_key=idempotency_key, actor=actor
                )
            )
        else:
            outcome = await _change_now(
                session, provider, subscription, claim, change, idempotency_key=idempotency_key, actor=actor
            )
        await previews.finish(session, claim.preview)
        return outcome


async def at_period_end(
    session: AsyncSession,
    provider: BillingProvider,
    catalog: Catalog,
    subscription: models.Subscription,
    wish: Wish,
    *,
    idempotency_key: str,
    actor: str,
) -> models.Subscription:
    """Let the change come with the next period. Nothing is charged now, so it needs no preview."""
    change, _, _ = await resolve(
        session, catalog, subscription, wish, proration="none", at="period_end", pays_at_once=False
    )
    return await scheduling.schedule(
        session, provider, subscription, change.items[0], idempotency_key=idempotency_key, actor=actor
    )


async def _change_now(
    session: AsyncSession,
    provider: BillingProvider,
    subscription: models.Subscription,
    claim: Claim,
    change: Change,
    *,
    idempotency_key: str,
    actor: str,
) -> Outcome:
    shown, stripe_id = claim.preview, subscription.stripe_id
    payment: PaymentBehavior | None = None
    if change.at_once and subscription.collection_method != "send_invoice":
        # Without its payment the change would be a present. Discounts can't be part of what waits for one
        # (docs.stripe.com/billing/subscriptions/pending-updates-reference): then it is paid at once, or not made.
        payment = "pending_if_incomplete" if change.discounts is None else "error_if_incomplete"
    date = shown.proration_date if change.prorated else None
    bill: Bill | None = None

    async def call() -> Snapshot[Subscription]:
        nonlocal bill
        before = await provider.retrieve_subscription(stripe_id)
        if _is_as_shown(before.object, claim, change):
            await _refuse_other_amount(provider, shown, change)
            # What was to come at the period's end is replaced by this, if this comes about.
            former = before.object.schedule or change.replaces
            async with scheduling.released(provider, former, stripe_id, idempotency_key=idempotency_key):
                done = await provider.change_subscription(
                    stripe_id,
                    items=change.items,
                    proration_behavior=change.proration,
                    proration_date=date,
                    payment_behavior=payment,
                    discounts=change.discounts,
                    idempotency_key=idempotency_key,
                )
        elif claim.again and _is_made(before.object, change):
            done = before
        else:
            raise PreviewStaleError
        if change.at_once and done.object.latest_invoice is not None:
            bill = await bills.fetch(session, provider, done.object.latest_invoice)
            _compare(shown, bill)
        return done

    origin = Origin(actor=actor)
    row = await carry_out(session, provider, subscription, call, origin)
    return await bills.store(session, row, bill, origin)


async def _refuse_other_amount(provider: BillingProvider, shown: models.SubscriptionPreview, change: Change) -> None:
    """What Stripe would charge now must be what was shown: balances, discounts and taxes may have changed."""
    if not change.at_once:
        return
    invoice = await provider.preview_change(
        shown.subscription,
        items=change.items,
        proration_behavior=change.proration,
        proration_date=shown.proration_date if change.prorated else None,
        discounts=change.discounts,
    )
    due = (0, shown.currency) if invoice is None else (invoice.amount_due, invoice.currency)
    if due != (shown.amount_due, shown.currency):
        raise PreviewStaleError


def _compare(shown: models.SubscriptionPreview, bill: Bill) -> None:
    """Stripe offers no way to refuse an invoice between previewing and collecting it: say so if one differs."""
    if bill.shown.object.amount_due != shown.amount_due:
        log.error(
            "subscription_charged_other_than_shown",
            subscription=shown.subscription,
            invoice=bill.shown.object.id,
            shown=shown.amount_due,
            charged=bill.shown.object.amount_due,
            currency=shown.currency,
        )


def _is_as_shown(subscription: Subscription, claim: Claim, change: Change) -> bool:
    if claim.again and subscription.schedule is None:  # an earlier try may have made it let go, and got no further
        subscription = replace(subscription, schedule=change.replaces)
    return previews.fingerprint(subscription) == claim.preview.fingerprint


def _is_made(subscription: Subscription, change: Change) -> bool:
    """Whether the change is there, or waits for its payment: this one, not somebody else's."""
    if not change.moves:
        kept = {wish.get("discount") for wish in change.discounts or ()}
        return not kept.issuperset(subscription.discounts)
    items = [(item.id, item.price.id, item.quantity) for item in subscription.items]
    if subscription.pending_update_expires_at is not None:
        items = list(subscription.pending_items)
    return any(
        (id, price) == (change.item, change.price) and change.quantity in {None, quantity}
        for id, price, quantity in items
    )


def _none(subscription: Subscription) -> InvoicePreview:
    """What is shown of a subscription that gets no invoice any more."""
    return InvoicePreview(currency=subscription.currency or "usd", subtotal=0, total=0, amount_due=0, lines=())


async def _discount(provider: BillingProvider, wish: Wish) -> DiscountWish | None:
    if wish.promotion_code is not None:
        return {"promotion_code": await provider.find_promotion_code(wish.promotion_code)}
    return None if wish.coupon is None else {"coupon": wish.coupon}


def _with(change: Change, **fields: Any) -> Change:
    return Change(**{**asdict(change), **fields})
