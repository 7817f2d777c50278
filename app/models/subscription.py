"""Subscriptions, as Stripe last showed them, and the changes customers were shown the price of."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ForeignKey, Index, func
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
    collection_method: Mapped[str | None]
    """charge_automatically or send_invoice; None for rows written before it was kept, as with those that follow."""
    pause_resumes_at: Mapped[int | None]
    """When `pause_collection` ends by itself."""
    paused_reason: Mapped[str | None]
    """Why `status` is paused: pause_requested, trial_end_without_payment_method, …"""
    schedule: Mapped[str | None]
    """The subscription schedule that drives it, e.g. towards a downgrade at the period's end."""
    pending_update_expires_at: Mapped[int | None]
    """Until when a change waits for its payment."""
    stripe_metadata: Mapped[dict[str, Any]]

    @property
    def ends_with_period(self) -> bool:
        """Whether it is set to end: the flag, or (as the portal does in flexible billing mode) the date alone."""
        return self.cancel_at_period_end or (self.cancel_at is not None and self.cancel_at == self.current_period_end)


class SubscriptionSchedule(Mirrored, Base):
    """What a subscription will be: phases that follow one another."""

    __tablename__ = "subscription_schedules"
    __table_args__ = (Index("ix_subscription_schedules_created", "created"),)

    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"), index=True)
    subscription: Mapped[str | None]
    """None before it starts, and once it has let go."""
    status: Mapped[str]
    """not_started, active, completed, released, canceled."""
    end_behavior: Mapped[str | None]
    """release or cancel."""
    phases: Mapped[list[Any]]
    """Each {start, end, items: [{price, quantity}]}."""
    stripe_metadata: Mapped[dict[str, Any]]


class SubscriptionPreview(Base):
    """What a customer was shown a change would cost. Confirming it does that and nothing else, once."""

    __tablename__ = "subscription_previews"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"), index=True)
    subscription: Mapped[str]
    fingerprint: Mapped[str]
    """Of the subscription as Stripe showed it then: once it shows another, the preview is stale."""
    change: Mapped[dict[str, Any]]
    """What was asked for: item, price, quantity, proration behavior, when, discounts."""
    amount_due: Mapped[int]
    """What is to be paid at once, minor units of `currency`."""
    currency: Mapped[str]
    proration_date: Mapped[int]
    """Unix seconds; the confirmation prorates as of this moment, so that its invoice is the one shown."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(index=True)
    confirmed_at: Mapped[datetime | None]
    """When somebody began to carry it out, and by which request (`confirmed_by`): nobody else may then."""
    confirmed_by: Mapped[str | None]
    done_at: Mapped[datetime | None]
    """When that had come about."""
