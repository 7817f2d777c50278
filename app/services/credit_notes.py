"""Credit notes: what invoices were lowered by, as Stripe has them."""

from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.provider.invoice_objects import CreditNote
from app.services import customers, mirror
from app.services.mirror import AsOf, Origin

_FIELDS = (
    *("livemode", "created", "invoice", "number", "status", "type", "currency", "subtotal", "total"),
    *("reason", "memo", "pdf"),
)


async def list_of_invoice(session: AsyncSession, invoice: models.Invoice) -> list[models.CreditNote]:
    """Newest first. There are few of them: together they can't exceed what the invoice asked."""
    found = await session.scalars(
        select(models.CreditNote)
        .where(models.CreditNote.invoice == invoice.stripe_id, ~models.CreditNote.deleted)
        .order_by(models.CreditNote.created.desc(), models.CreditNote.stripe_id.desc())
    )
    return list(found.all())


async def sync(session: AsyncSession, note: CreditNote, *, as_of: AsOf, origin: Origin) -> bool:
    """Bring our row in line with Stripe's credit note; False when `as_of` is stale.

    Raises UnknownCustomerError before its customer is stored.
    """
    customer = await customers.of_object(session, note.customer)
    values = columns(note, customer.id)
    return await mirror.upsert(session, models.CreditNote, note.id, values, as_of=as_of, origin=origin)


def columns(note: CreditNote, customer_id: UUID) -> dict[str, Any]:
    """What our row says when it shows this."""
    return {"customer_id": customer_id, **{field: getattr(note, field) for field in _FIELDS}}
