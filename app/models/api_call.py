"""Calls of our own API that wanted to change something: for the customer's timeline."""

from datetime import datetime

from sqlalchemy import Identity, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class ApiCall(Base):
    """Who asked for what, and how it was answered. Never what was in the request."""

    __tablename__ = "api_calls"
    __table_args__ = (Index("ix_api_calls_user_id_id", "user_id", "id"), Index("ix_api_calls_at", "at"))

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    user_id: Mapped[str]
    """The user it was about."""
    actor: Mapped[str]
    """`user:{id}` or `key:{id}`, as in the audit log."""
    method: Mapped[str]
    route: Mapped[str]
    """The path's template, e.g. /api/v1/billing/subscription/cancel."""
    status: Mapped[int]
    request_id: Mapped[str]
