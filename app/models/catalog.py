"""Prices at Stripe and the plan each belongs to."""

from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Price(Base):
    """What Stripe charges for a plan. Old prices stay: subscribers on them keep their plan."""

    __tablename__ = "prices"

    stripe_id: Mapped[str] = mapped_column(primary_key=True)
    plan: Mapped[str] = mapped_column(index=True)
    """The key in plans.yaml."""
    product: Mapped[str]
    lookup_key: Mapped[str | None]
    """None once a newer price took the key over."""
    currency: Mapped[str]
    unit_amount: Mapped[int]
    """Minor units."""
    interval: Mapped[str]
    active: Mapped[bool]
    livemode: Mapped[bool]
