"""Usage: every event once and for ever, what they add up to, and who is telling Stripe of it now."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Identity, Index, PrimaryKeyConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base

STATUSES = ("held", "pending", "sent", "failed", "expired", "canceling", "canceled")


class UsageEvent(Base):
    """`held` until Stripe knows the customer, `pending` until Stripe took it, then `sent`.

    `failed` is what Stripe refused (see `error_code`), `expired` what grew too old for Stripe to take. `canceling`
    waits for Stripe to take it back; `canceled` counts nowhere.
    """

    __tablename__ = "usage_events"
    __table_args__ = (
        CheckConstraint(f"status IN ({', '.join(map(repr, STATUSES))})", name="status"),
        # What is to be sent. What Stripe took needs no entry, and that is nearly everything. By whom and what it is
        # about first, so that a long queue of one customer can be stepped over.
        Index(
            "ix_usage_events_due",
            "subject",
            "meter",
            "next_attempt_at",
            postgresql_where=text("status IN ('pending', 'canceling')"),
        ),
        Index("ix_usage_events_held", "subject", postgresql_where=text("status = 'held'")),
        Index("ix_usage_events_unsettled", "status", "seq", postgresql_where=text("status <> 'sent'")),
        Index("ix_usage_events_subject", "subject", "meter", "timestamp"),
        Index("ix_usage_events_identifier", "identifier", unique=True, postgresql_where=text("identifier IS NOT NULL")),
    )

    seq: Mapped[int] = mapped_column(Identity(), primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    """Chosen by the caller; the identifier Stripe knows it by, too, unless `identifier` is set."""
    identifier: Mapped[str | None]
    """What Stripe knows it by since it was sent anew: of the first it would say that it has that already."""
    subject: Mapped[str]
    """Whose usage it is: a user id, or the Stripe id of a customer who is no user's."""
    meter: Mapped[str]
    """The meter's key in the catalogue."""
    quantity: Mapped[int]
    """Negative in a correction alone."""
    timestamp: Mapped[int]
    """When it was used, unix seconds."""
    period_start: Mapped[int]
    """The period it counts in; see UsageTotal."""
    status: Mapped[str]
    corrects: Mapped[str | None]
    """The event this one takes back, where Stripe no longer cancels that."""
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    attempted_at: Mapped[datetime | None]
    """When it was first sent, whether or not Stripe got it: from then on its identifier protects it for a day."""
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    sent_at: Mapped[datetime | None]
    error_code: Mapped[str | None]
    recorded_at: Mapped[datetime] = mapped_column(server_default=func.now())


class UsageTotal(Base):
    """What a subject used of a meter in a period; the sum of its events that aren't canceled."""

    __tablename__ = "usage_totals"
    __table_args__ = (PrimaryKeyConstraint("subject", "meter", "period_start"),)

    subject: Mapped[str]
    meter: Mapped[str]
    period_start: Mapped[int]
    """Unix seconds, as is `period_end`, which is no longer part of it."""
    period_end: Mapped[int]
    used: Mapped[int]
    events: Mapped[int]
    latest: Mapped[int]
    """The timestamp of the latest event; what the meter `last` goes by."""
    allowed: Mapped[int | None]
    """The plan's limit when something was last counted; None without one."""


class UsageLease(Base):
    """Who sends a subject's events of a meter, and until when nobody else may: Stripe takes them one at a time."""

    __tablename__ = "usage_leases"
    __table_args__ = (PrimaryKeyConstraint("subject", "meter"),)

    subject: Mapped[str]
    meter: Mapped[str]
    until: Mapped[datetime]
