"""Invoices: reading them, making and changing them, and following Stripe."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import ConflictError, NotFoundError, PaymentFailedError
from app.provider.invoice_objects import InvoiceLine, LineWish
from app.provider.invoice_protocol import InvoiceProvider
from app.provider.objects import Invoice, Snapshot
from app.provider.subscription_objects import InvoicePreview
from app.provider.subscription_protocol import CollectionMethod
from app.services import customers, mirror
from app.services.mirror import NO_ROW, AsOf, Origin

_FIELDS = (
    *("livemode", "created", "deleted", "subscription", "status", "number", "currency", "subtotal", "total"),
    *("amount_due", "amount_paid", "amount_remaining", "billing_reason", "description", "hosted_invoice_url"),
    *("invoice_pdf", "period_start", "period_end", "due_date", "paid_at", "attempt_count", "next_payment_attempt"),
    *("discount", "tax"),
)
_LINE_FIELDS = tuple(field.name for field in fields(InvoiceLine))


@dataclass(frozen=True, slots=True, kw_only=True)
class Whose:
    """Whose invoices are meant: a user's; a customer's (Stripe's id or a user id); everybody's with neither."""

    user_id: str | None = None
    customer: str | None = None

    def condition(self) -> ColumnElement[bool]:
        """What holds of `models.Customer`."""
        if self.user_id is not None:
            return and_(models.Customer.user_id == self.user_id, ~models.Customer.deleted)
        if self.customer is not None:
            return or_(models.Customer.stripe_id == self.customer, models.Customer.user_id == self.customer)
        return models.Customer.id.is_not(None)


@dataclass(frozen=True, slots=True)
class Owned:
    """An invoice as our own tables have it, with its customer's id at Stripe."""

    row: models.Invoice
    customer: str


async def list_some(
    session: AsyncSession, whose: Whose, *, status: str | None, limit: int, starting_after: str | None
) -> list[models.Invoice]:
    """Newest first, up to `limit` + 1 of them, so that the caller sees whether there are more.

    `starting_after` is the id of one of theirs; NotFoundError otherwise.
    """
    theirs = (
        select(models.Invoice)
        .join(models.Customer, models.Customer.id == models.Invoice.customer_id)
        .where(whose.condition(), ~models.Invoice.deleted)
    )
    page = theirs.order_by(models.Invoice.created.desc(), models.Invoice.stripe_id.desc()).limit(limit + 1)
    if status is not None:
        page = page.where(models.Invoice.status == status)
    if starting_after is not None:
        last = await session.scalar(theirs.where(models.Invoice.stripe_id == starting_after))
        if last is None:
            raise _missing(param="starting_after")
        page = page.where(
            or_(
                models.Invoice.created < last.created,
                and_(models.Invoice.created == last.created, models.Invoice.stripe_id < last.stripe_id),
            )
        )
    return list((await session.scalars(page)).all())


async def get(session: AsyncSession, id: str, whose: Whose) -> Owned:
    """Raises NotFoundError for one that isn't theirs."""
    found = await session.execute(
        select(models.Invoice, models.Customer.stripe_id)
        .join(models.Customer, models.Customer.id == models.Invoice.customer_id)
        .where(models.Invoice.stripe_id == id, ~models.Invoice.deleted, whose.condition())
        .execution_options(populate_existing=True)
    )
    if (row := found.one_or_none()) is None:
        raise _missing()
    return Owned(*row)


async def upcoming(session: AsyncSession, provider: InvoiceProvider, user_id: str) -> InvoicePreview:
    """What the user is billed next, as Stripe reckons it this moment. Raises NotFoundError when nothing is to come."""
    customer = (await customers.get_for_user(session, user_id)).stripe_id
    await release(session)
    try:
        return await provider.preview_upcoming_invoice(customer)
    except NotFoundError as error:
        raise NotFoundError("Nothing is to be billed.", code="no_upcoming_invoice") from error


async def create(
    session: AsyncSession,
    provider: InvoiceProvider,
    *,
    customer: str,
    lines: Sequence[LineWish],
    include_pending: bool,
    currency: str | None,
    collection_method: CollectionMethod,
    days_until_due: int | None,
    auto_advance: bool,
    description: str | None,
    promotion_code: str | None,
    coupon: str | None,
    metadata: Mapping[str, str],
    idempotency_key: str,
    actor: str,
) -> Owned:
    """Draft an invoice for a customer (Stripe's id or a user id). Raises as `InvoiceProvider.create_invoice`."""
    billed = (await customers.get_living(session, customer)).stripe_id
    await release(session)
    made = await provider.create_invoice(
        customer=billed,
        lines=lines,
        include_pending=include_pending,
        currency=currency,
        collection_method=collection_method,
        days_until_due=days_until_due,
        auto_advance=auto_advance,
        description=description,
        promotion_code=promotion_code,
        coupon=coupon,
        metadata=metadata,
        idempotency_key=idempotency_key,
    )
    return await _keep(session, provider, made, customer=billed, revision=NO_ROW, actor=actor)


async def delete(session: AsyncSession, provider: InvoiceProvider, *, id: str, actor: str) -> None:
    """Take a draft away as if it had never been. Raises ConflictError for any other."""
    found = await get(session, id, Whose())
    await release(session)
    # An earlier try may have deleted it, and its answer been lost: it is gone all the same.
    with suppress(NotFoundError), _refusing("invoice_not_draft"):
        await provider.delete_invoice(id)
    await customers.lock(session, found.customer)
    revision = await mirror.revision_of(session, models.Invoice, id)  # nothing Stripe said before can matter any more
    await mirror.bury(session, models.Invoice, id, revision=revision, origin=Origin(actor=actor))


async def finalize(
    session: AsyncSession, provider: InvoiceProvider, *, id: str, idempotency_key: str, actor: str
) -> Owned:
    async def call() -> Snapshot[Invoice]:
        return await provider.finalize_invoice(id, idempotency_key=idempotency_key)

    return await _change(session, provider, id, call, refusal="invoice_not_draft", actor=actor)


async def pay(
    session: AsyncSession,
    provider: InvoiceProvider,
    *,
    id: str,
    payment_method: str | None,
    paid_out_of_band: bool,
    idempotency_key: str,
    actor: str,
) -> Owned:
    """Collect it now, or note that it was paid elsewhere. Raises PaymentFailedError when the bank refuses."""

    async def call() -> Snapshot[Invoice]:
        try:
            return await provider.pay_invoice(
                id, payment_method=payment_method, paid_out_of_band=paid_out_of_band, idempotency_key=idempotency_key
            )
        except NotFoundError as error:
            if error.param == "invoice":
                raise
            if payment_method is not None:
                raise NotFoundError(
                    "The customer has no such payment method.", code="payment_method_not_found", param="payment_method"
                ) from error
            raise ConflictError(
                "There is nothing the invoice could be charged to.", code="payment_method_missing"
            ) from error
        except PaymentFailedError as error:
            if error.provider_code == "invoice_payment_intent_requires_action":
                error.code = "payment_action_required"
            raise

    return await _change(session, provider, id, call, refusal="invoice_not_payable", actor=actor)


async def send(session: AsyncSession, provider: InvoiceProvider, *, id: str, idempotency_key: str, actor: str) -> Owned:
    """Have Stripe mail it; a draft is finalized first."""

    async def call() -> Snapshot[Invoice]:
        return await provider.send_invoice(id, idempotency_key=idempotency_key)

    return await _change(session, provider, id, call, refusal="invoice_not_open", actor=actor)


async def void(session: AsyncSession, provider: InvoiceProvider, *, id: str, idempotency_key: str, actor: str) -> Owned:
    async def call() -> Snapshot[Invoice]:
        return await provider.void_invoice(id, idempotency_key=idempotency_key)

    return await _change(session, provider, id, call, refusal="invoice_not_open", actor=actor)


async def mark_uncollectible(
    session: AsyncSession, provider: InvoiceProvider, *, id: str, idempotency_key: str, actor: str
) -> Owned:
    async def call() -> Snapshot[Invoice]:
        return await provider.mark_invoice_uncollectible(id, idempotency_key=idempotency_key)

    return await _change(session, provider, id, call, refusal="invoice_not_open", actor=actor)


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
    return {
        "customer_id": customer_id,
        "lines": [{field: getattr(line, field) for field in _LINE_FIELDS} for line in invoice.lines],
        **{field: getattr(invoice, field) for field in _FIELDS},
    }


async def _change(
    session: AsyncSession,
    provider: InvoiceProvider,
    id: str,
    call: Callable[[], Awaitable[Snapshot[Invoice]]],
    *,
    refusal: str,
    actor: str,
) -> Owned:
    """Make `call`, which changes the invoice at Stripe, and store its answer; `refusal` is a ConflictError's code."""
    found = await get(session, id, Whose())
    revision = found.row.revision
    await release(session)
    with _refusing(refusal):
        snapshot = await call()
    return await _keep(session, provider, snapshot, customer=found.customer, revision=revision, actor=actor)


@contextmanager
def _refusing(code: str) -> Iterator[None]:
    """Stripe alone knows what state the invoice is in: its refusal becomes a ConflictError with this code."""
    try:
        yield
    except ConflictError as error:
        if error.code == ConflictError.code:
            error.code = code
        raise


async def _keep(
    session: AsyncSession,
    provider: InvoiceProvider,
    snapshot: Snapshot[Invoice],
    *,
    customer: str,
    revision: int,
    actor: str,
) -> Owned:
    id = snapshot.object.id
    await customers.keep(
        session,
        models.Invoice,
        snapshot,
        customer=customer,
        revision=revision,
        sync=sync,
        again=lambda: provider.retrieve_invoice(id),
        origin=Origin(actor=actor),
    )
    return await get(session, id, Whose())


def _missing(param: str | None = None) -> NotFoundError:
    return NotFoundError("There is no such invoice.", code="invoice_not_found", param=param)
