"""First answers to requests that carried an Idempotency-Key."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, LargeBinary, func
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class IdempotencyKey(Base):
    """`status` is None while the first request runs; then it and what follows are what every repeat is answered."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)

    caller: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    """SHA-256 of method, path, query and body."""
    owner: Mapped[str]
    """The request that runs, or ran, the key: only it may store the answer or give the key up."""
    status: Mapped[int | None]
    headers: Mapped[list[Any] | None]
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    """None with a status: it was erased, with the customer it told of."""
    user_id: Mapped[str | None]
    """Whom the request was about, as far as it said."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    locked_at: Mapped[datetime] = mapped_column(server_default=func.now())
