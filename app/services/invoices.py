"""Invoices: listing them and following Stripe."""

from typing import Any
from uuid import UUID

from sqlalchemy import and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.errors import NotFoundError
from app.provider.objects import Invoice
from app.services import customers, mirror
from app.services.mirror import AsOf, Origin

_FIELDS = (
    *("livemode", "created", "deleted", "subscription", "status", "number", "currency", "subtotal", "total"),
    *("amount_due", "amount_paid", "amount_remaining", "billing_reason", "description", "hosted_invoice_url"),
    *("invoice_pdf", "period_start", "period_end", "due_date", "paid_at", "attempt_count", "next_payment_attempt"),
)


async def list_for_user(
    session: AsyncSession, *, user_id: str, status: str | None, limit: int, starting_after: str | None
) -> list[models.Invoice]:
    """Newest first, up to `limit` + 1 of them, so that the caller sees whether there are more.

    `starting_after` is an invoice id of the same user's; NotFoundError otherwise.
    """
    mine = (
        select(models.Invoice)
        .join(models.Customer, models.Customer.id == models.Invoice.customer_id)
        .where(models.Customer.user_id == user_id, ~models.Customer.deleted, ~models.Invoice.deleted)
    )
    page = mine.order_by(models.Invoice.created.desc(), models.Invoice.stripe_id.desc()).limit(limit + 1)
    if status is not None:
        page = page.where(models.Invoice.status == status)
    if starting_after is not None:
        last = await session.scalar(mine.where(models.Invoice.stripe_id == starting_after))
        if last is None:
            raise NotFoundError("There is no such invoice.", code="invoice_not_found", param="starting_after")
        page = page.where(
            or_(
                models.Invoice.created < last.created,
                and_(models.Invoice.created == last.created, models.Invoice.stripe_id < last.stripe_id),
            )
        )
    return list((await session.scalars(page)).all())


async def sync(session: AsyncSession, invoice: Invoice, *, as_of: AsOf, origin: Origin) -> bool:
    """Bring our row in line with Stripe's invoice; False when `as_of` is stale.

    Raises UnknownCustomerError before its customer is stored.
    """
    if invoice.customer is None:
        raise ValueError(f"invoice {invoice.id} has no customer")
    customer = await customers.of_object(session, invoice.customer)
    values = columns(invoice, customer.id)
    return await mirror.upsert(session, models.Invoice, invoice.id, values, as_of=as_of, origin=origin)


def columns(invoice: Invoice, customer_id: UUID) -> dict[str, Any]:
    """What our row says when it shows this."""
    return {"customer_id": customer_id, **{field: getattr(invoice, field) for field in _FIELDS}}
