"""Checkout sessions: what a customer was sent to buy, and how it ended."""

from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.models.mirror import Mirrored


class CheckoutSession(Mirrored, Base):
    """At most one open subscription session per customer: the database itself keeps two tabs from buying twice."""

    __tablename__ = "checkout_sessions"
    __table_args__ = (
        Index(
            "uq_checkout_sessions_customer_id_open",
            "customer_id",
            unique=True,
            postgresql_where=text("status = 'open' AND mode = 'subscription' AND ours"),
        ),
    )

    customer_id: Mapped[UUID | None] = mapped_column(ForeignKey("customers.id"), index=True)
    ours: Mapped[bool] = mapped_column(server_default=text("false"))
    """Made by our POST /checkout/session, and not in the Dashboard or by other code on the same account."""
    request: Mapped[dict[str, Any] | None]
    """What was asked for (price, quantity, URLs, promotion code): the same again gets the same session back."""
    mode: Mapped[str]
    status: Mapped[str | None]
    payment_status: Mapped[str]
    url: Mapped[str | None]
    expires_at: Mapped[int]
    subscription: Mapped[str | None] = mapped_column(index=True)
    payment_intent: Mapped[str | None]
    invoice: Mapped[str | None]
    currency: Mapped[str | None]
    amount_total: Mapped[int | None]
    stripe_metadata: Mapped[dict[str, Any]]
