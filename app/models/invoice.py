"""Invoices and credit notes, as Stripe last showed them."""

from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.models.mirror import Mirrored


class Invoice(Mirrored, Base):
    """Amounts in minor units of `currency`, times in unix seconds."""

    __tablename__ = "invoices"
    __table_args__ = (
        Index("ix_invoices_customer_id_created", "customer_id", "created"),
        Index("ix_invoices_created", "created"),  # Stripe's list is held against it
    )

    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"))
    subscription: Mapped[str | None] = mapped_column(index=True)
    status: Mapped[str | None]
    number: Mapped[str | None]
    currency: Mapped[str]
    subtotal: Mapped[int]
    total: Mapped[int]
    amount_due: Mapped[int]
    amount_paid: Mapped[int]
    amount_remaining: Mapped[int]
    billing_reason: Mapped[str | None]
    description: Mapped[str | None]
    hosted_invoice_url: Mapped[str | None]
    invoice_pdf: Mapped[str | None]
    period_start: Mapped[int | None]
    period_end: Mapped[int | None]
    due_date: Mapped[int | None]
    paid_at: Mapped[int | None]
    attempt_count: Mapped[int]
    next_payment_attempt: Mapped[int | None]
    discount: Mapped[int | None]
    """What discounts took off `subtotal`; None for rows written before it was kept."""
    tax: Mapped[int | None]
    lines: Mapped[list[Any] | None]
    """Each {id, description, amount, quantity, price, period_start, period_end, proration}; at most Stripe's first
    ten. None for rows written before they were kept."""


class CreditNote(Mirrored, Base):
    """What an invoice was lowered by after it was finalized."""

    __tablename__ = "credit_notes"
    __table_args__ = (Index("ix_credit_notes_created", "created"),)

    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"), index=True)
    invoice: Mapped[str] = mapped_column(index=True)
    number: Mapped[str | None]
    status: Mapped[str]
    """issued or void."""
    type: Mapped[str]
    """pre_payment, post_payment or mixed."""
    currency: Mapped[str]
    subtotal: Mapped[int]
    total: Mapped[int]
    reason: Mapped[str | None]
    memo: Mapped[str | None]
    pdf: Mapped[str | None]
