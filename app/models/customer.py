"""Customers and their payment methods."""

from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.models.mirror import Mirrored


class Customer(Mirrored, Base):
    """One row per Stripe customer; at most one living row per user of the host product."""

    __tablename__ = "customers"
    __table_args__ = (
        Index("uq_customers_user_id_living", "user_id", unique=True, postgresql_where=text("NOT deleted")),
        Index("ix_customers_user_id", "user_id"),  # living or not: for their story
        Index("ix_customers_created", "created"),  # Stripe's list is held against it
        Index("ix_customers_email", text("lower(email)")),
        Index("ix_customers_erased_at", "erased_at", postgresql_where=text("erased_at IS NOT NULL")),
    )

    user_id: Mapped[str | None]
    """The host product's id for the user (the token's `sub`); None for customers made elsewhere."""
    email: Mapped[str | None]
    name: Mapped[str | None]
    default_payment_method: Mapped[str | None]
    trial_used: Mapped[bool] = mapped_column(server_default=text("false"))
    """Trials are given once: set when a subscription with a trial appears, never cleared."""
    stripe_metadata: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    erased_at: Mapped[int | None]
    """When the person asked to be forgotten (unix seconds): from then on nothing personal is stored here again."""


class PaymentMethod(Mirrored, Base):
    """A card or other method. Never a number: brand, last four digits and expiry, as Stripe shows them."""

    __tablename__ = "payment_methods"

    customer_id: Mapped[UUID | None] = mapped_column(ForeignKey("customers.id"), index=True)
    """None once detached."""
    type: Mapped[str]
    brand: Mapped[str | None]
    last4: Mapped[str | None]
    exp_month: Mapped[int | None]
    exp_year: Mapped[int | None]
