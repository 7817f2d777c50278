"""Replays of many events: which, how far, who asked."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Replay(Base):
    """A job the worker carries out slice by slice; `last_id` is where the next slice begins."""

    __tablename__ = "replays"
    __table_args__ = (CheckConstraint("status IN ('running', 'done')", name="status"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    filter: Mapped[dict[str, Any]]
    """What `GET /events` would be asked: status, type, customer, since."""
    actor: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="running")
    total: Mapped[int]
    """Events that matched when it was asked for."""
    replayed: Mapped[int] = mapped_column(server_default=text("0"))
    skipped: Mapped[int] = mapped_column(server_default=text("0"))
    """Matched, but nothing to apply: ignored for good, or the payload is no longer kept."""
    last_id: Mapped[int] = mapped_column(server_default=text("0"))
    up_to_id: Mapped[int]
    """The newest event when it was asked for: what came later is not part of it."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
