"""The audit log: what changed, who did it, what it was before; the database refuses to change or drop a row."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Identity, Index, LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class AuditRow(Base):
    """Rows of one `chain` hash one another in the order of `seq`, so that a change anywhere shows."""

    __tablename__ = "audit_log"
    __table_args__ = (
        UniqueConstraint("chain", "seq"),
        Index("ix_audit_log_customer_id_id", "customer_id", "id"),
        Index("ix_audit_log_stripe_event_id", "stripe_event_id"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    chain: Mapped[int]
    seq: Mapped[int]
    at: Mapped[datetime]
    actor: Mapped[str]
    """`stripe`, `user:{id}`, `key:{id}`, `cli` or `system`."""
    action: Mapped[str]
    """`{object}.{what}`, e.g. subscription.updated."""
    subject: Mapped[str]
    """The id of what changed."""
    customer_id: Mapped[UUID | None]
    stripe_event_id: Mapped[str | None]
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    prev_hash: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
