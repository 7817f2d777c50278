"""How payments, charges, refunds and disputes at Stripe become our rows."""

from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.provider.payment_objects import Charge, Dispute, PaymentIntent, Refund
from app.services import customers, mirror
from app.services.credits import settling
from app.services.mirror import AsOf, Origin

_INTENT_FIELDS = (
    *("livemode", "created", "amount", "amount_capturable", "amount_received", "currency", "status", "capture_method"),
    *("payment_method", "latest_charge", "description", "canceled_at", "cancellation_reason", "failure_code"),
    *("decline_code", "order_reference"),
)
_CHARGE_FIELDS = (
    *("livemode", "created", "amount", "amount_captured", "amount_refunded", "currency", "status", "captured"),
    *("refunded", "payment_intent", "payment_method", "description", "receipt_url", "failure_code"),
    "decline_code",
)
_REFUND_FIELDS = (
    *("livemode", "created", "charge", "payment_intent", "amount", "currency", "status", "reason", "failure_reason"),
)
_DISPUTE_FIELDS = (
    *("livemode", "created", "charge", "payment_intent", "amount", "currency", "status", "reason", "evidence_due_by"),
)


async def sync_intent(session: AsyncSession, intent: PaymentIntent, *, as_of: AsOf, origin: Origin) -> bool:
    """Bring our row in line with Stripe's; False when `as_of` is stale. Raises UnknownCustomerError, as all of these.

    A client secret is never stored.
    """
    values = intent_columns(intent, await _owner(session, intent.customer))
    applied = await mirror.upsert(session, models.PaymentIntent, intent.id, values, as_of=as_of, origin=origin)
    if applied:
        await settling.follow_intent(session, intent, origin=origin)
    return applied


async def sync_charge(session: AsyncSession, charge: Charge, *, as_of: AsOf, origin: Origin) -> bool:
    values = charge_columns(charge, await _owner(session, charge.customer))
    return await mirror.upsert(session, models.Charge, charge.id, values, as_of=as_of, origin=origin)


async def sync_refund(session: AsyncSession, refund: Refund, *, as_of: AsOf, origin: Origin) -> bool:
    owner = await _owner(session, refund.customer) or await _payer(session, refund)
    values = refund_columns(refund, owner)
    applied = await mirror.upsert(session, models.Refund, refund.id, values, as_of=as_of, origin=origin)
    if applied:
        await settling.follow_payment(session, refund.payment_intent, origin=origin)
    return applied


async def sync_dispute(session: AsyncSession, dispute: Dispute, *, as_of: AsOf, origin: Origin) -> bool:
    values = dispute_columns(dispute, await _payer(session, dispute))
    applied = await mirror.upsert(session, models.Dispute, dispute.id, values, as_of=as_of, origin=origin)
    if applied:
        await settling.follow_payment(session, dispute.payment_intent, origin=origin)
    return applied


def intent_columns(intent: PaymentIntent, customer_id: UUID | None) -> dict[str, Any]:
    """What our row says when it shows this."""
    return {"customer_id": customer_id, **_columns(intent, _INTENT_FIELDS)}


def charge_columns(charge: Charge, customer_id: UUID | None) -> dict[str, Any]:
    return {"customer_id": customer_id, **_columns(charge, _CHARGE_FIELDS)}


def refund_columns(refund: Refund, customer_id: UUID | None) -> dict[str, Any]:
    return {**_found(customer_id), **_columns(refund, _REFUND_FIELDS)}


def dispute_columns(dispute: Dispute, customer_id: UUID | None) -> dict[str, Any]:
    return {**_found(customer_id), **_columns(dispute, _DISPUTE_FIELDS)}


def _columns(shown: Any, fields: tuple[str, ...]) -> dict[str, Any]:
    return {"stripe_metadata": dict(shown.metadata), **{name: getattr(shown, name) for name in fields}}


def _found(customer_id: UUID | None) -> dict[str, Any]:
    """Whose it is was learned elsewhere: what does not say it must not take it away."""
    return {} if customer_id is None else {"customer_id": customer_id}


async def _owner(session: AsyncSession, customer: str | None) -> UUID | None:
    return None if customer is None else (await customers.of_object(session, customer)).id


async def _payer(session: AsyncSession, about: Refund | Dispute) -> UUID | None:
    """Whose payment it is about, as far as we know it: a payment made here is known before its charge."""
    charge = select(models.Charge.customer_id).where(models.Charge.stripe_id == about.charge)
    intent = select(models.PaymentIntent.customer_id).where(models.PaymentIntent.stripe_id == about.payment_intent)
    return await session.scalar(select(func.coalesce(charge.scalar_subquery(), intent.scalar_subquery())))
