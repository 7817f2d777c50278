"""The columns every mirrored Stripe object has: which object, how fresh, and changed how often."""

from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.orm import Mapped, mapped_column


class Mirrored:
    """Mixed into each table that follows an object of Stripe's."""

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    stripe_id: Mapped[str] = mapped_column(unique=True)
    livemode: Mapped[bool]
    created: Mapped[int]
    """Unix seconds, Stripe's clock."""
    synced_at: Mapped[int]
    """Unix seconds on Stripe's clock of what this row shows: an event's `created`, or the `Date` of a fetch."""
    revision: Mapped[int] = mapped_column(server_default=text("1"))
    """Counts writes. A fetch is applied only if nobody wrote since before it began: it can't be the older state."""
    deleted: Mapped[bool] = mapped_column(server_default=text("false"))
    """A tombstone: Stripe no longer has the object (or it left its customer), and older news must not revive it."""
