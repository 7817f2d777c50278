"""Subscriptions, as Stripe last showed them."""

from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.models.mirror import Mirrored


class Subscription(Mirrored, Base):
    """A row per Stripe subscription. `status` is Stripe's word, also one we don't know yet."""

    __tablename__ = "subscriptions"
    __table_args__ = (
        Index("ix_subscriptions_customer_id_created", "customer_id", "created"),
        Index("ix_subscriptions_created", "created"),  # Stripe's list is held against it
    )

    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"))
    status: Mapped[str]
    price: Mapped[str | None]
    """The first item's price id; `items` has them all."""
    quantity: Mapped[int | None]
    currency: Mapped[str | None]
    unit_amount: Mapped[int | None]
    """Minor units of `currency` for one unit a period."""
    interval: Mapped[str | None]
    items: Mapped[list[Any]]
    """Each {id, price, quantity, unit_amount, lookup_key, plan}."""
    plan: Mapped[str | None]
    """The key in plans.yaml, from the price's metadata; None for prices made elsewhere."""
    current_period_start: Mapped[int | None]
    current_period_end: Mapped[int | None]
    cancel_at_period_end: Mapped[bool]
    cancel_at: Mapped[int | None]
    canceled_at: Mapped[int | None]
    ended_at: Mapped[int | None]
    trial_start: Mapped[int | None]
    trial_end: Mapped[int | None]
    pause_collection: Mapped[str | None]
    default_payment_method: Mapped[str | None]
    latest_invoice: Mapped[str | None]
    stripe_metadata: Mapped[dict[str, Any]]

    @property
    def ends_with_period(self) -> bool:
        """Whether it is set to end: the flag, or (as the portal does in flexible billing mode) the date alone."""
        return self.cancel_at_period_end or (self.cancel_at is not None and self.cancel_at == self.current_period_end)
