"""Trials: given once per customer, and announced before they end."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.services import mirror, outbox

WILL_END = "customer.subscription.trial_will_end"
"""Stripe sends it three days before a trial ends, or at once when one is cut short (docs.stripe.com/api/events)."""


async def had(session: AsyncSession, user_id: str) -> bool:
    """Whether the user has had a trial, with any customer they ever were."""
    used = select(func.bool_or(models.Customer.trial_used)).where(models.Customer.user_id == user_id)
    return bool(await session.scalar(used))


async def announce_end(session: AsyncSession, subscription_id: str, *, stripe_event_id: str | None) -> None:
    """Tell those outside that a trial is about to end: once for each end, and only while it is still to come."""
    row = await mirror.find_row(session, models.Subscription, subscription_id)
    if row is None or row["status"] != "trialing" or row["trial_end"] is None:
        return
    kind = "subscription.trial_will_end"
    message = outbox.Message(
        key=f"{kind}:{subscription_id}:{row['trial_end']}",
        type=kind,
        subject=subscription_id,
        customer_id=row["customer_id"],
        stripe_event_id=stripe_event_id,
        data={name: row[name] for name in ("status", "plan", "quantity", "trial_end", "cancel_at")},
    )
    await outbox.append(session, [message])
