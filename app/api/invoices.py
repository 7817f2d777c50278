"""Invoices: the caller's own to read, and everybody's for operators to make, change and collect."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query

from app.api.deps import (
    CallerDep,
    OperatorDep,
    ProviderDep,
    ReadUserDep,
    RequiredIdempotencyKeyDep,
    SessionDep,
    UserIdQuery,
    user_meant,
)
from app.api.invoice_schemas import (
    CreateInvoice,
    CreditNoteRead,
    InvoiceDetail,
    InvoiceRead,
    PayInvoice,
    UpcomingInvoice,
)
from app.api.paging import MAX_ID_LENGTH, PageDep
from app.api.problems import FROM_STRIPE
from app.errors import PermissionDeniedError
from app.provider.invoice_objects import LineWish
from app.services import credit_notes, invoices
from app.services.identity import User
from app.services.invoices import Whose

router = APIRouter(prefix="/invoices", tags=["Invoices"])

InvoiceStatus = Literal["draft", "open", "paid", "uncollectible", "void"]
IdPath = Annotated[str, Path(max_length=MAX_ID_LENGTH, description="Stripe's id of the invoice")]
CustomerQuery = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=MAX_ID_LENGTH,
        description="Only this customer's, by Stripe's id or the user's: for operators, who see everybody's without it",
    ),
]

_MISSING: dict[int | str, Any] = {404: {"description": "`invoice_not_found`: there is none, or it is somebody else's"}}
_STATE: dict[int | str, Any] = {
    409: {
        "description": "The invoice's state forbids it: the `code` says which; `idempotency_key_in_use` can be retried"
    }
}
_NAMED: dict[int | str, Any] = {404: {"description": "`customer_not_found`, or a price or coupon Stripe doesn't know"}}
_DECLINED: dict[int | str, Any] = {
    402: {
        "description": "`payment_failed`: the bank or Stripe refused, `decline_code` says why; "
        "`payment_action_required`: the customer has to authenticate, at `hosted_invoice_url`"
    }
}
CHANGED = {**FROM_STRIPE, **_MISSING, **_STATE}


async def get_whose(caller: CallerDep, user_id: UserIdQuery = None, customer: CustomerQuery = None) -> Whose:
    """Whose invoices the caller may see, and means: operators everybody's, all others one user's."""
    if not isinstance(caller, User) and "operator" in caller.scopes and user_id is None:
        return Whose(customer=customer)
    if customer is not None:
        raise PermissionDeniedError("`customer` needs a service key with the scope `operator`.")
    return Whose(user_id=user_meant(caller, "billing:read", user_id).user_id)


WhoseDep = Annotated[Whose, Depends(get_whose)]


@router.get("", responses={404: {"description": "`invoice_not_found`: as `starting_after`"}})
async def list_invoices(
    session: SessionDep,
    whose: WhoseDep,
    page: PageDep,
    status: Annotated[InvoiceStatus | None, Query(description="Only these")] = None,
) -> list[InvoiceRead]:
    """Newest first: a user's own; with the scope `operator`, everybody's or one `customer`'s."""
    rows = await invoices.list_some(session, whose, status=status, limit=page.limit, starting_after=page.starting_after)
    return [InvoiceRead.of(row) for row in page.cut(rows, lambda row: row.stripe_id)]


@router.post("", status_code=201, responses={**FROM_STRIPE, **_STATE, **_NAMED})
async def create_invoice(
    *,
    session: SessionDep,
    provider: ProviderDep,
    key: OperatorDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    body: CreateInvoice,
) -> InvoiceDetail:
    """Draft an invoice. Nothing is asked of the customer before it is finalized. Needs the scope `operator`."""
    wishes = [
        LineWish(price=line.price_id, quantity=line.quantity, amount=line.amount_minor, description=line.description)
        for line in body.lines
    ]
    made = await invoices.create(
        session,
        provider,
        customer=body.customer,
        lines=wishes,
        include_pending=body.include_pending,
        currency=body.currency and body.currency.lower(),
        collection_method=body.collection_method,
        days_until_due=body.days_until_due,
        auto_advance=body.auto_advance,
        description=body.description,
        promotion_code=body.promotion_code,
        coupon=body.coupon,
        metadata=body.metadata,
        idempotency_key=idempotency_key,
        actor=key.actor,
    )
    return InvoiceDetail.of_owned(made)


@router.get("/upcoming", responses={**FROM_STRIPE, 404: {"description": "`no_upcoming_invoice`, `customer_not_found`"}})
async def get_upcoming_invoice(session: SessionDep, provider: ProviderDep, user: ReadUserDep) -> UpcomingInvoice:
    """What is billed next if nothing changes, as Stripe reckons it this moment."""
    return UpcomingInvoice.of(await invoices.upcoming(session, provider, user.user_id))


@router.get("/{invoice_id}", responses=_MISSING)
async def get_invoice(session: SessionDep, whose: WhoseDep, invoice_id: IdPath) -> InvoiceDetail:
    """An invoice with its lines. `hosted_invoice_url` is where the customer can pay an open one."""
    return InvoiceDetail.of_owned(await invoices.get(session, invoice_id, whose))


@router.delete("/{invoice_id}", status_code=204, responses=CHANGED)
async def delete_invoice(*, session: SessionDep, provider: ProviderDep, key: OperatorDep, invoice_id: IdPath) -> None:
    """Delete a draft, and the pending items it took in with it. Any other can be voided. Needs the scope `operator`."""
    await invoices.delete(session, provider, id=invoice_id, actor=key.actor)


@router.get("/{invoice_id}/credit-notes", responses=_MISSING)
async def list_credit_notes(session: SessionDep, whose: WhoseDep, invoice_id: IdPath) -> list[CreditNoteRead]:
    """What the invoice was lowered by, newest first."""
    found = await invoices.get(session, invoice_id, whose)
    return [CreditNoteRead.of(row) for row in await credit_notes.list_of_invoice(session, found.row)]


@router.post("/{invoice_id}/finalize", responses=CHANGED)
async def finalize_invoice(
    *,
    session: SessionDep,
    provider: ProviderDep,
    key: OperatorDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    invoice_id: IdPath,
) -> InvoiceDetail:
    """Number a draft and open it; one over nothing is paid at once. Needs the scope `operator`."""
    done = await invoices.finalize(session, provider, id=invoice_id, idempotency_key=idempotency_key, actor=key.actor)
    return InvoiceDetail.of_owned(done)


@router.post("/{invoice_id}/pay", responses={**CHANGED, **_DECLINED})
async def pay_invoice(
    *,
    session: SessionDep,
    provider: ProviderDep,
    key: OperatorDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    invoice_id: IdPath,
    body: PayInvoice | None = None,
) -> InvoiceDetail:
    """Collect it now; a draft is finalized first. Needs the scope `operator`."""
    how = body or PayInvoice()
    done = await invoices.pay(
        session,
        provider,
        id=invoice_id,
        payment_method=how.payment_method,
        paid_out_of_band=how.paid_out_of_band,
        idempotency_key=idempotency_key,
        actor=key.actor,
    )
    return InvoiceDetail.of_owned(done)


@router.post("/{invoice_id}/send", responses=CHANGED)
async def send_invoice(
    *,
    session: SessionDep,
    provider: ProviderDep,
    key: OperatorDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    invoice_id: IdPath,
) -> InvoiceDetail:
    """Have Stripe mail it to the customer; a draft is finalized first. Needs the scope `operator`."""
    done = await invoices.send(session, provider, id=invoice_id, idempotency_key=idempotency_key, actor=key.actor)
    return InvoiceDetail.of_owned(done)


@router.post("/{invoice_id}/void", responses=CHANGED)
async def void_invoice(
    *,
    session: SessionDep,
    provider: ProviderDep,
    key: OperatorDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    invoice_id: IdPath,
) -> InvoiceDetail:
    """Take an open one back, as if it had never been: it keeps its number. Needs the scope `operator`."""
    done = await invoices.void(session, provider, id=invoice_id, idempotency_key=idempotency_key, actor=key.actor)
    return InvoiceDetail.of_owned(done)


@router.post("/{invoice_id}/mark-uncollectible", responses=CHANGED)
async def mark_invoice_uncollectible(
    *,
    session: SessionDep,
    provider: ProviderDep,
    key: OperatorDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    invoice_id: IdPath,
) -> InvoiceDetail:
    """Give an open one up. It can still be paid, or voided. Needs the scope `operator`."""
    done = await invoices.mark_uncollectible(
        session, provider, id=invoice_id, idempotency_key=idempotency_key, actor=key.actor
    )
    return InvoiceDetail.of_owned(done)
