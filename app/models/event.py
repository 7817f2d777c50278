"""The inbox: every event Stripe sent us, once, with what became of it."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Identity, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class StripeEvent(Base):
    """`pending` until applied; `dead` after too many tries; `ignored` when it doesn't concern us."""

    __tablename__ = "stripe_events"
    __table_args__ = (
        UniqueConstraint("event_id", "account"),  # in this order, as events are also looked up by their id alone
        CheckConstraint("status IN ('pending', 'processed', 'ignored', 'dead')", name="status"),
        # What is due, oldest first; and by key, so that long queues of one customer can be stepped over.
        Index("ix_stripe_events_due_at", "next_attempt_at", "key", postgresql_where=text("status = 'pending'")),
        Index("ix_stripe_events_due", "key", "next_attempt_at", postgresql_where=text("status = 'pending'")),
        Index("ix_stripe_events_unsettled", "status", "id", postgresql_where=text("status IN ('pending', 'dead')")),
        Index("ix_stripe_events_key_id", "key", "id"),
        Index("ix_stripe_events_type_id", "type", "id"),
        # What arrived since a moment. Rows lie about as they came, so blocks' first and last times are enough.
        Index("ix_stripe_events_received_at", "received_at", postgresql_using="brin"),
        # What retention still has to empty.
        Index(
            "ix_stripe_events_kept",
            "received_at",
            postgresql_where=text("payload IS NOT NULL AND status IN ('processed', 'ignored')"),
        ),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    account: Mapped[str] = mapped_column(server_default="")
    """The connected account an event came from; empty for our own."""
    event_id: Mapped[str]
    type: Mapped[str]
    key: Mapped[str]
    """Events of one key are applied one after another: the customer's id, else the object's, else the event's."""
    created: Mapped[int]
    livemode: Mapped[bool]
    api_version: Mapped[str | None]
    payload: Mapped[str | None]
    """The verified body as it came (text costs a third of jsonb, and nothing queries inside); None once too old."""
    status: Mapped[str] = mapped_column(server_default="pending")
    reason: Mapped[str | None]
    """Why it was ignored."""
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_error: Mapped[str | None]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    processed_at: Mapped[datetime | None]
