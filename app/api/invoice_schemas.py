"""Bodies of the invoice routes: invoices, their lines, what comes next, credit notes, and what makes or pays one."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self

from pydantic import Field, model_validator

from app import models
from app.api.paging import MAX_ID_LENGTH
from app.api.schemas import DecimalNumber, Input, Metadata, Output
from app.provider.subscription_objects import InvoicePreview
from app.provider.subscription_protocol import CollectionMethod
from app.services.invoices import Owned
from app.values import Money

MAX_MINOR = 999_999_999_999  # Stripe's longest amount has twelve digits
MOST_LINES = 100
_AS_KEPT = (
    *("number", "status", "currency", "subscription", "billing_reason", "created", "due_date", "paid_at"),
    *("period_start", "period_end", "hosted_invoice_url", "invoice_pdf", "attempt_count", "next_payment_attempt"),
)


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
    attempt_count: int = Field(description="How often it was tried to collect")
    next_payment_attempt: int | None = Field(description="When it is tried again; null when it no longer is")

    @classmethod
    def of(cls, row: models.Invoice) -> "InvoiceRead":
        return cls.model_validate(_shown(row))


class InvoiceLineRead(Output):
    """`…_minor` fields are in the invoice's currency, times in unix seconds."""

    id: str | None = Field(description="Stripe's id; null on an invoice that is not made yet")
    description: str | None = Field(description="What it is for")
    amount: DecimalNumber = Field(description="In major units, before discounts and tax on top")
    amount_minor: int = Field(description="The same; below zero for what is given back")
    quantity: int | None = Field(description="How many units")
    price_id: str | None = Field(description="Stripe's price")
    proration: bool = Field(description="Whether it is for a part of a period, after a change")
    period_start: int | None = Field(description="Start of what it covers")
    period_end: int | None = Field(description="End of what it covers")


class InvoiceDetail(InvoiceRead):
    """An invoice with what it is made of."""

    customer: str = Field(description="Stripe's id of the customer")
    description: str | None = Field(description="Shown on the document")
    subtotal_minor: int = Field(description="Before discounts of the whole invoice and tax on top")
    discount_minor: int | None = Field(description="What all discounts took off; null where it isn't known")
    tax_minor: int | None = Field(description="All taxes, those contained in prices too; null where it isn't known")
    lines: list[InvoiceLineRead] | None = Field(
        description="What is billed; null for an invoice that has not changed since lines are kept"
    )

    @classmethod
    def of_owned(cls, found: Owned) -> "InvoiceDetail":
        row = found.row
        lines = None if row.lines is None else [_line(dict(line), row.currency) for line in row.lines]
        return cls.model_validate(
            {
                **_shown(row),
                "customer": found.customer,
                "description": row.description,
                "subtotal_minor": row.subtotal,
                "discount_minor": row.discount,
                "tax_minor": row.tax,
                "lines": lines,
            }
        )


class UpcomingInvoice(Output):
    """What the next invoice would be if nothing changed."""

    currency: str = Field(description="ISO 4217, lower case")
    amount_due: DecimalNumber = Field(description="In major units")
    amount_due_minor: int = Field(description="What would be collected")
    subtotal_minor: int = Field(description="Before discounts of the whole invoice and tax on top")
    total_minor: int = Field(description="After discounts and tax")
    lines: list[InvoiceLineRead] = Field(description="The first ten lines")

    @classmethod
    def of(cls, preview: InvoicePreview) -> Self:
        return cls(
            currency=preview.currency,
            amount_due=Money(preview.amount_due, preview.currency).decimal,
            amount_due_minor=preview.amount_due,
            subtotal_minor=preview.subtotal,
            total_minor=preview.total,
            lines=[_line({"id": None, **asdict(line)}, preview.currency) for line in preview.lines],
        )


class CreditNoteRead(Output):
    """What an invoice was lowered by. `…_minor` fields are in the currency's minor unit, times in unix seconds."""

    id: str = Field(description="Stripe's id", examples=["cn_1QxYz"])
    number: str | None = Field(description="What stands on the document")
    status: str = Field(description="`issued` or `void`")
    type: str = Field(description="`pre_payment`: less was asked; `post_payment`: money or credit went back; `mixed`")
    currency: str = Field(description="ISO 4217, lower case")
    total: DecimalNumber = Field(description="In major units")
    total_minor: int = Field(description="After discounts, with tax")
    subtotal_minor: int = Field(description="Before discounts and tax on top")
    reason: str | None = Field(description="e.g. `duplicate`, `order_change`")
    memo: str | None = Field(description="Words on the document")
    pdf: str | None = Field(description="The document")
    created: int = Field(description="When it was issued")

    @classmethod
    def of(cls, row: models.CreditNote) -> Self:
        return cls(
            id=row.stripe_id,
            number=row.number,
            status=row.status,
            type=row.type,
            currency=row.currency,
            total=Money(row.total, row.currency).decimal,
            total_minor=row.total,
            subtotal_minor=row.subtotal,
            reason=row.reason,
            memo=row.memo,
            pdf=row.pdf,
            created=row.created,
        )


class NewLine(Input):
    """So many of a one-time price, or an amount of its own."""

    price_id: str | None = Field(default=None, min_length=1, max_length=MAX_ID_LENGTH, description="A one-time price")
    quantity: int | None = Field(default=None, ge=1, le=1_000_000, description="How many of the price; 1 by default")
    amount_minor: int | None = Field(
        default=None, ge=-MAX_MINOR, le=MAX_MINOR, description="Instead of a price; below zero takes off the invoice"
    )
    description: str | None = Field(default=None, min_length=1, max_length=500, description="Shown on the document")

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.price_id is None) == (self.amount_minor is None):
            raise ValueError("A line has either a `price_id` or an `amount_minor`")
        if self.quantity is not None and self.price_id is None:
            raise ValueError("`quantity` counts units of a `price_id`")
        return self


class CreateInvoice(Input):
    """A draft, until it is finalized, sent or paid."""

    customer: str = Field(min_length=1, max_length=MAX_ID_LENGTH, description="Stripe's id, or the user's")
    lines: list[NewLine] = Field(default_factory=list, max_length=MOST_LINES, description="What is billed")
    include_pending: bool = Field(default=False, description="Also bill what waits for the customer's next invoice")
    currency: str | None = Field(
        default=None, pattern="^[A-Za-z]{3}$", description="ISO 4217; the customer's by default", examples=["usd"]
    )
    collection_method: CollectionMethod = Field(
        default="charge_automatically", description="`send_invoice` mails it and waits for the customer"
    )
    days_until_due: int | None = Field(default=None, ge=0, le=3650, description="With `send_invoice`, which needs it")
    auto_advance: bool = Field(default=False, description="Let Stripe finalize and collect it after an hour")
    description: str | None = Field(default=None, min_length=1, max_length=500, description="Shown on the document")
    coupon: str | None = Field(default=None, min_length=1, max_length=MAX_ID_LENGTH, description="Taken off the whole")
    promotion_code: str | None = Field(
        default=None, min_length=1, max_length=100, description="The text of a code to take off, instead of a coupon"
    )
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.lines and not self.include_pending:
            raise ValueError("An invoice needs `lines`, or `include_pending`")
        if (self.collection_method == "send_invoice") != (self.days_until_due is not None):
            raise ValueError("`days_until_due` goes with `send_invoice`, and only with it")
        if self.coupon is not None and self.promotion_code is not None:
            raise ValueError("Name a `coupon` or a `promotion_code`, not both")
        return self


class PayInvoice(Input):
    """How it is paid."""

    payment_method: str | None = Field(
        default=None, min_length=1, max_length=MAX_ID_LENGTH, description="Instead of the customer's default"
    )
    paid_out_of_band: bool = Field(default=False, description="It was paid elsewhere: nothing is charged")

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.paid_out_of_band and self.payment_method is not None:
            raise ValueError("What was paid elsewhere is not charged to a `payment_method`")
        return self


def _shown(row: models.Invoice) -> dict[str, Any]:
    """What every answer says of an invoice."""
    return {
        "id": row.stripe_id,
        **{name: getattr(row, name) for name in _AS_KEPT},
        "amount_due": Money(row.amount_due, row.currency).decimal,
        "amount_due_minor": row.amount_due,
        "amount_paid": Money(row.amount_paid, row.currency).decimal,
        "amount_paid_minor": row.amount_paid,
        "amount_remaining_minor": row.amount_remaining,
        "total_minor": row.total,
    }


def _line(line: Mapping[str, Any], currency: str) -> InvoiceLineRead:
    """From a line as our table keeps it."""
    same = ("id", "description", "quantity", "proration", "period_start", "period_end")
    return InvoiceLineRead(
        **{name: line[name] for name in same},
        amount=Money(line["amount"], currency).decimal,
        amount_minor=line["amount"],
        price_id=line["price"],
    )
