"""The caller's invoices."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from app import models
from app.api.deps import ReadUserDep, SessionDep
from app.api.paging import PageDep
from app.api.schemas import DecimalNumber, Output
from app.services import invoices
from app.values import Money

router = APIRouter(prefix="/invoices", tags=["Invoices"])

InvoiceStatus = Literal["draft", "open", "paid", "uncollectible", "void"]


class InvoiceRead(Output):
    """`…_minor` fields are in the currency's minor unit, times in unix seconds."""

    id: str = Field(description="Stripe's id", examples=["in_1QxYz"])
    number: str | None = Field(description="What stands on the document; null for a draft")
    status: str | None = Field(description="`draft`, `open`, `paid`, `uncollectible` or `void`")
    currency: str = Field(description="ISO 4217, lower case")
    amount_due: DecimalNumber = Field(description="In major units")
    amount_due_minor: int = Field(description="What is to be paid")
    amount_paid: DecimalNumber = Field(description="In major units")
    amount_paid_minor: int = Field(description="What has been paid")
    amount_remaining_minor: int = Field(description="What is still to be paid")
    total_minor: int = Field(description="After discounts and tax")
    subscription: str | None = Field(description="The subscription it bills")
    billing_reason: str | None = Field(description="Why it was made, e.g. `subscription_cycle`")
    created: int = Field(description="When it was made")
    due_date: int | None = Field(description="When it is to be paid by")
    paid_at: int | None = Field(description="When it was paid")
    period_start: int | None = Field(description="Start of what it covers")
    period_end: int | None = Field(description="End of what it covers")
    hosted_invoice_url: str | None = Field(description="Page to see and pay it")
    invoice_pdf: str | None = Field(description="The document")

    @classmethod
    def of(cls, row: models.Invoice) -> "InvoiceRead":
        return cls(
            id=row.stripe_id,
            number=row.number,
            status=row.status,
            currency=row.currency,
            amount_due=Money(row.amount_due, row.currency).decimal,
            amount_due_minor=row.amount_due,
            amount_paid=Money(row.amount_paid, row.currency).decimal,
            amount_paid_minor=row.amount_paid,
            amount_remaining_minor=row.amount_remaining,
            total_minor=row.total,
            subscription=row.subscription,
            billing_reason=row.billing_reason,
            created=row.created,
            due_date=row.due_date,
            paid_at=row.paid_at,
            period_start=row.period_start,
            period_end=row.period_end,
            hosted_invoice_url=row.hosted_invoice_url,
            invoice_pdf=row.invoice_pdf,
        )


@router.get("", responses={404: {"description": "`invoice_not_found`: as `starting_after`"}})
async def list_invoices(
    session: SessionDep,
    user: ReadUserDep,
    page: PageDep,
    status: Annotated[InvoiceStatus | None, Query(description="Only these")] = None,
) -> list[InvoiceRead]:
    """Newest first."""
    rows = await invoices.list_for_user(
        session, user_id=user.user_id, status=status, limit=page.limit, starting_after=page.starting_after
    )
    return [InvoiceRead.of(row) for row in page.cut(rows, lambda row: row.stripe_id)]
