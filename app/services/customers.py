"""Customers: one per user of the host product, made at Stripe once."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import NotFoundError
from app.provider.objects import Customer, Snapshot
from app.provider.protocol import CustomerProvider
from app.services import mirror
from app.services.derived_keys import with_derived_key
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


async def lock(session: AsyncSession, stripe_id: str) -> None:
    """Wait for everybody who writes this customer's rows, the worker included, and keep them waiting to the commit.

    Without it two writers who touch the same rows in different orders would deadlock. Take it before the first write.
    """
    await session.execute(select(func.pg_advisory_xact_lock(lock_number(stripe_id))))


def lock_number(key: str) -> ColumnElement[int]:
    """The number Postgres knows the lock of a customer (or of another key of events) by."""
    return func.hashtextextended(key, 0)


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


class UserTakenError(LookupError):
    """The user has another living customer, `stripe_id`, as far as we know: look whether it still lives."""

    def __init__(self, stripe_id: str) -> None:
        super().__init__(f"the user belongs to customer {stripe_id}")
        self.stripe_id = stripe_id


async def of_object(session: AsyncSession, stripe_id: str) -> models.Customer:
    """The customer an object of Stripe's belongs to, living or not. Raises UnknownCustomerError."""
    customer = await session.scalar(select(models.Customer).where(models.Customer.stripe_id == stripe_id))
    if customer is None:
        raise UnknownCustomerError(stripe_id)
    return customer


async def create_at_stripe(session: AsyncSession, provider: CustomerProvider, buyer: Buyer) -> Snapshot[Customer]:
    """The user's Stripe customer, made now unless a concurrent or crashed request already made it.

    The idempotency key is the user's own, so every racing request is given the same customer. Address and name are set
    afterwards: a key is good for one set of parameters, and a token may carry others next time.
    """
    await release(session)
    who = hashlib.sha256(buyer.user_id.encode()).hexdigest()[:40]

    async def create(key: str) -> Snapshot[Customer]:
        return await provider.create_customer(
            email=None, name=None, metadata={USER_METADATA: buyer.user_id}, idempotency_key=key
        )

    made = await with_derived_key(f"billhook-customer-{who}", create, usable=lambda made: not made.object.deleted)
    # Stripe refuses what can't be an address; a token may carry anything.
    email = buyer.email if buyer.email and re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", buyer.email) else None
    if (email, buyer.name) == (None, None):
        return made
    return await provider.update_customer(made.object.id, email=email, name=buyer.name)


async def sync(
    session: AsyncSession, customer: Customer, *, as_of: AsOf, origin: Origin, claim_user: bool = True
) -> bool:
    """Bring our row in line with Stripe's customer; False when `as_of` is stale.

    Whose customer it is was settled when we made it. Metadata can be edited in the Dashboard, so it is believed only
    while the row has no user, and never against a user with another living customer: then UserTakenError, or with
    `claim_user` false a customer without a user.
    """
    row = await mirror.find_row(session, models.Customer, customer.id)
    stub = customer.deleted and as_of.revision is not None  # what a fetch of a deleted customer shows: its id alone
    values: dict[str, Any] = {"deleted": True} if stub else columns(customer)
    if user_id := claim_of(row, customer):
        holder = None if customer.deleted else await find_for_user(session, user_id)
        if holder is None:
            values["user_id"] = user_id
        elif claim_user and holder.stripe_id != customer.id:  # else somebody stored this very one meanwhile
            raise UserTakenError(holder.stripe_id)
    applied = await mirror.upsert(
        session,
        models.Customer,
        customer.id,
        values,
        as_of=as_of,
        origin=origin,
        only_on_insert=columns(customer) if stub else None,
    )
    if applied and customer.deleted and row is not None and row["user_id"] is not None:
        await _hand_over(session, row["user_id"], origin)
    return applied


def columns(customer: Customer) -> dict[str, Any]:
    """What our row says when it shows this, but for whose customer it is."""
    return {
        "livemode": customer.livemode,
        "created": customer.created,
        "deleted": customer.deleted,
        "stripe_metadata": dict(customer.metadata),
        "email": customer.email,
        "name": customer.name,
        "default_payment_method": customer.default_payment_method,
    }


def claim_of(row: Mapping[str, Any] | None, customer: Customer) -> str | None:
    """The user whose customer this says it is, while that is open."""
    return customer.metadata.get(USER_METADATA) if row is None or row["user_id"] is None else None


async def _hand_over(session: AsyncSession, user_id: str, origin: Origin) -> None:
    """The user's customer is gone: the oldest living one that Stripe says is theirs too takes its place."""
    heirs = (
        select(models.Customer)
        .where(
            models.Customer.user_id.is_(None),
            ~models.Customer.deleted,
            models.Customer.stripe_metadata[USER_METADATA].astext == user_id,
        )
        .order_by(models.Customer.created, models.Customer.stripe_id)
        .limit(1)
        .execution_options(populate_existing=True)
    )
    while (heir := await session.scalar(heirs)) is not None:
        as_of = AsOf(at=heir.synced_at, revision=heir.revision)
        claim = {"user_id": user_id}
        # False: somebody has written the heir's row since we looked, so look again.
        if await mirror.upsert(session, models.Customer, heir.stripe_id, claim, as_of=as_of, origin=origin):
            return
