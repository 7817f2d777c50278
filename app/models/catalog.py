"""Products and prices at Stripe, and the plan each belongs to."""

from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.models.mirror import Mirrored


class Product(Mirrored, Base):
    """What is sold, as Stripe last showed it."""

    __tablename__ = "products"
    __table_args__ = (Index("ix_products_created", "created"),)

    name: Mapped[str]
    description: Mapped[str | None]
    active: Mapped[bool]
    default_price: Mapped[str | None]
    plan: Mapped[str | None]
    """The key in plans.yaml; None for products made elsewhere."""
    stripe_metadata: Mapped[dict[str, Any]]


class Price(Mirrored, Base):
    """What Stripe charges. Old prices stay: subscribers on them keep their plan."""

    __tablename__ = "prices"
    __table_args__ = (Index("ix_prices_created", "created"),)

    plan: Mapped[str | None] = mapped_column(index=True)
    """The key in plans.yaml, of one of its plans or packs; None for prices made elsewhere."""
    product: Mapped[str] = mapped_column(index=True)
    lookup_key: Mapped[str | None] = mapped_column(index=True)
    """None once a newer price took the key over."""
    nickname: Mapped[str | None]
    currency: Mapped[str]
    unit_amount: Mapped[int | None]
    """Minor units; None for tiers and fractions of a minor unit."""
    interval: Mapped[str | None]
    """None for a one-time price."""
    interval_count: Mapped[int]
    usage_type: Mapped[str | None]
    """licensed or metered; None for a one-time price."""
    meter: Mapped[str | None]
    active: Mapped[bool]
    stripe_metadata: Mapped[dict[str, Any]]
