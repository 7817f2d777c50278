"""Customers: one per user of the host product, made at Stripe once."""

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.errors import NotFoundError
from app.provider.protocol import Customer, CustomerProvider, Snapshot
from app.services import mirror
from app.services.mirror import AsOf, Origin

USER_METADATA = "user_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Buyer:
    """The user a purchase is for, as their token describes them."""

    user_id: str
    email: str | None = None
    name: str | None = None


async def find_for_user(session: AsyncSession, user_id: str) -> models.Customer | None:
    return await session.scalar(
        select(models.Customer).where(models.Customer.user_id == user_id, ~models.Customer.deleted)
    )


async def get_for_user(session: AsyncSession, user_id: str) -> models.Customer:
    """Raises NotFoundError before the first purchase."""
    if (customer := await find_for_user(session, user_id)) is None:
        raise NotFoundError("There is no billing customer for this user yet.", code="customer_not_found")
    return customer


class UnknownCustomerError(LookupError):
    """An object of Stripe's arrived before its customer: fetch the customer first."""

    def __init__(self, stripe_id: str) -> None:
        super().__init__(f"customer {stripe_id} is not known yet")
        self.stripe_id = stripe_id


async def of_object(session: AsyncSession, stripe_id: str) -> models.Customer:
    """The customer an object of Stripe's belongs to, living or not. Raises UnknownCustomerError."""
    customer = await session.scalar(select(models.Customer).where(models.Customer.stripe_id == stripe_id))
    if customer is None:
        raise UnknownCustomerError(stripe_id)
    return customer


async def create_at_stripe(session: AsyncSession, provider: CustomerProvider, buyer: Buyer) -> Snapshot[Customer]:
    """The user's Stripe customer, made now unless a concurrent or crashed request already made it.

    The idempotency key is the user's own, so every racing request is given the same customer. It counts former,
    deleted customers: whoever comes back gets a new one.
    """
    former = await session.scalar(
        select(func.count())
        .select_from(models.Customer)
        .where(models.Customer.user_id == buyer.user_id, models.Customer.deleted)
    )
    who = hashlib.sha256(buyer.user_id.encode()).hexdigest()[:40]
    return await provider.create_customer(
        email=buyer.email,
        name=buyer.name,
        metadata={USER_METADATA: buyer.user_id},
        idempotency_key=f"billhook-customer-{who}-{former}",
    )


async def sync(session: AsyncSession, customer: Customer, *, as_of: AsOf, origin: Origin) -> bool:
    """Bring our row in line with Stripe's customer; False when `as_of` is stale."""
    first = {
        "livemode": customer.livemode,
        "created": customer.created,
        "stripe_metadata": dict(customer.metadata),
    }
    values: dict[str, Any] = {"deleted": customer.deleted}
    if not customer.deleted:  # a fetch of a deleted customer shows nothing but its id
        values |= first | {
            "email": customer.email,
            "name": customer.name,
            "default_payment_method": customer.default_payment_method,
        }
    # Whose customer this is was settled when we made it: metadata can be edited in the Dashboard, so it is believed
    # only for a customer we see for the first time, and never against a user who already has one.
    user_id = customer.metadata.get(USER_METADATA)
    if user_id is not None and await find_for_user(session, user_id) is not None:
        user_id = None
    return await mirror.upsert(
        session,
        models.Customer,
        customer.id,
        values,
        as_of=as_of,
        origin=origin,
        only_on_insert={**first, "user_id": user_id},
    )
