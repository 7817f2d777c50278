"""Comparisons with Stripe: each run, what it found, and how far the reading of Stripe's events has come."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class ReconcileRun(Base):
    """`cursor` is where an interrupted run goes on."""

    __tablename__ = "reconcile_runs"
    __table_args__ = (
        CheckConstraint("status IN ('running', 'done', 'failed')", name="status"),
        Index("ix_reconcile_runs_started_at", "started_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    actor: Mapped[str]
    repair: Mapped[bool]
    since: Mapped[int | None]
    """Unix seconds: only what changed or was made since; None for everything."""
    status: Mapped[str] = mapped_column(server_default="running")
    cursor: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    compared: Mapped[int] = mapped_column(server_default=text("0"))
    drifted: Mapped[int] = mapped_column(server_default=text("0"))
    repaired: Mapped[int] = mapped_column(server_default=text("0"))
    error: Mapped[str | None]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class Difference(Base):
    """One object that was otherwise here than at Stripe."""

    __tablename__ = "reconcile_differences"
    __table_args__ = (
        Index("ix_reconcile_differences_run_id_id", "run_id", "id"),
        UniqueConstraint("run_id", "object", "stripe_id", name="uq_reconcile_differences_object"),
        # Which objects the events that never came tell of.
        Index(
            "ix_reconcile_differences_about",
            "run_id",
            text("((fields -> 'object'::text) ->> 1)"),
            postgresql_where=text("object = 'event'"),
        ),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    run_id: Mapped[UUID] = mapped_column(ForeignKey("reconcile_runs.id", ondelete="CASCADE"))
    object: Mapped[str]
    """Stripe's word for the kind: customer, subscription, invoice, payment_method, event."""
    stripe_id: Mapped[str]
    customer: Mapped[str | None]
    """The Stripe customer it belongs to."""
    cause: Mapped[str]
    """Why, as far as can be told: e.g. missing, stale, deleted, event_missing, event_pending, event_dead."""
    fields: Mapped[dict[str, Any]]
    """{field: [ours, Stripe's]}; personal values are not written down."""
    repaired: Mapped[bool] = mapped_column(server_default=text("false"))
    found_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Cursor(Base):
    """How far something that goes on for ever, or was interrupted, has come."""

    __tablename__ = "cursors"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
