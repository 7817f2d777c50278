"""Payments: intents, the charges they made, and what became of these. Amounts in minor units of `currency`."""

from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.models.mirror import Mirrored


class PaymentIntent(Mirrored, Base):
    """An intention to collect a payment, through all its tries. Never a client secret."""

    __tablename__ = "payment_intents"
    __table_args__ = (
        Index("ix_payment_intents_customer_id_created", "customer_id", "created"),
        Index("ix_payment_intents_created", "created"),
    )

    customer_id: Mapped[UUID | None] = mapped_column(ForeignKey("customers.id"))
    amount: Mapped[int]
    amount_capturable: Mapped[int]
    amount_received: Mapped[int]
    currency: Mapped[str]
    status: Mapped[str]
    capture_method: Mapped[str]
    payment_method: Mapped[str | None]
    latest_charge: Mapped[str | None]
    description: Mapped[str | None]
    canceled_at: Mapped[int | None]
    cancellation_reason: Mapped[str | None]
    failure_code: Mapped[str | None]
    """Of the last try: its `code`."""
    decline_code: Mapped[str | None]
    order_reference: Mapped[str | None]
    """The invoice or Checkout session it was made for, by Stripe's id; or what its maker chose."""
    stripe_metadata: Mapped[dict[str, Any]]


class Charge(Mirrored, Base):
    """One try to take money, and how much of it went back."""

    __tablename__ = "charges"
    __table_args__ = (
        Index("ix_charges_customer_id_created", "customer_id", "created"),
        Index("ix_charges_created_stripe_id", "created", "stripe_id"),
    )

    customer_id: Mapped[UUID | None] = mapped_column(ForeignKey("customers.id"))
    payment_intent: Mapped[str | None] = mapped_column(index=True)
    amount: Mapped[int]
    amount_captured: Mapped[int]
    amount_refunded: Mapped[int]
    currency: Mapped[str]
    status: Mapped[str]
    """succeeded, pending or failed."""
    captured: Mapped[bool]
    refunded: Mapped[bool]
    """Whether all of it went back."""
    payment_method: Mapped[str | None]
    description: Mapped[str | None]
    receipt_url: Mapped[str | None]
    failure_code: Mapped[str | None]
    decline_code: Mapped[str | None]
    stripe_metadata: Mapped[dict[str, Any]]


class Refund(Mirrored, Base):
    """Money on its way back, or back. A succeeded one can still fail."""

    __tablename__ = "refunds"
    __table_args__ = (Index("ix_refunds_created", "created"),)

    customer_id: Mapped[UUID | None] = mapped_column(ForeignKey("customers.id"), index=True)
    charge: Mapped[str | None] = mapped_column(index=True)
    payment_intent: Mapped[str | None] = mapped_column(index=True)
    amount: Mapped[int]
    currency: Mapped[str]
    status: Mapped[str | None]
    reason: Mapped[str | None]
    failure_reason: Mapped[str | None]
    stripe_metadata: Mapped[dict[str, Any]]


class Dispute(Mirrored, Base):
    """A payment the cardholder's bank questions."""

    __tablename__ = "disputes"
    __table_args__ = (Index("ix_disputes_created", "created"),)

    customer_id: Mapped[UUID | None] = mapped_column(ForeignKey("customers.id"), index=True)
    charge: Mapped[str] = mapped_column(index=True)
    payment_intent: Mapped[str | None] = mapped_column(index=True)
    amount: Mapped[int]
    currency: Mapped[str]
    status: Mapped[str]
    reason: Mapped[str]
    evidence_due_by: Mapped[int | None]
    """Unix seconds; None where there is nothing to answer."""
    stripe_metadata: Mapped[dict[str, Any]]
