"""The invoice a change led to, and how the customer pays it where that needs them."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.provider.objects import Invoice, Snapshot
from app.provider.protocol import BillingProvider
from app.services import invoices, mirror
from app.services.mirror import AsOf, Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """An invoice as Stripe shows it, and our row's revision from before. `client_secret` while it is to be paid."""

    shown: Snapshot[Invoice]
    revision: int
    client_secret: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a subscription. `invoice` is the one it led to; with a `client_secret` it is still to be paid.

    A change that waits for that is in `subscription.pending_update_expires_at`.
    """

    subscription: models.Subscription
    invoice: models.Invoice | None = None
    client_secret: str | None = None


async def fetch(session: AsyncSession, provider: BillingProvider, invoice: str) -> Bill:
    """Ask Stripe for an invoice. Reads only, and keeps no connection meanwhile."""
    revision = await mirror.revision_of(session, models.Invoice, invoice)
    await release(session)
    shown = await provider.retrieve_invoice(invoice)
    secret = await provider.retrieve_confirmation_secret(invoice) if shown.object.status == "open" else None
    return Bill(shown=shown, revision=revision, client_secret=secret)


async def store(session: AsyncSession, subscription: models.Subscription, bill: Bill | None, origin: Origin) -> Outcome:
    """Write the invoice. Whatever a webhook changed meanwhile stands."""
    if bill is None:
        return Outcome(subscription=subscription)
    as_of = AsOf(at=bill.shown.at, revision=bill.revision)
    await invoices.sync(session, bill.shown.object, as_of=as_of, origin=origin)
    row = await session.scalar(
        select(models.Invoice)
        .where(models.Invoice.stripe_id == bill.shown.object.id)
        .execution_options(populate_existing=True)
    )
    return Outcome(subscription=subscription, invoice=row, client_secret=bill.client_secret)
