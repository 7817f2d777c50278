"""The outbox: what happened that somebody outside may want to hear of, written with the change itself."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Identity, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class OutboxMessage(Base):
    """One row per thing that happened, however many of Stripe's events and retries told of it."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_customer_id_id", "customer_id", "id"),
        Index("ix_outbox_stripe_event_id", "stripe_event_id"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    """What makes it one thing: e.g. `payment.received:in_…`."""
    type: Mapped[str]
    """Our own name for it, e.g. subscription.activated."""
    subject: Mapped[str]
    """The id of the Stripe object it is about."""
    customer_id: Mapped[UUID | None]
    stripe_event_id: Mapped[str | None]
    """The event that told us; None when we learned of it otherwise."""
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
