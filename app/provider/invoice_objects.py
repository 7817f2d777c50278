"""What a payment provider tells of invoices' lines and of credit notes, and what a new line is to be. See `objects`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceLine:
    """`amount` is before discounts and exclusive taxes, and below zero for what is given back."""

    id: str
    description: str | None
    amount: int
    quantity: int | None
    price: str | None
    period_start: int | None
    period_end: int | None
    proration: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LineWish:
    """A line to be put on a draft: so many of a one-time price, or an amount of its own (below zero takes off)."""

    price: str | None = None
    quantity: int | None = None
    amount: int | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNote:
    """What an invoice was lowered by; `total` is after discounts and with taxes."""

    id: str
    customer: str
    invoice: str
    status: str  # issued, void
    type: str  # pre_payment, post_payment, mixed
    currency: str
    subtotal: int
    total: int
    number: str | None = None
    reason: str | None = None
    memo: str | None = None
    pdf: str | None = None
    livemode: bool = False
    created: int = 0
