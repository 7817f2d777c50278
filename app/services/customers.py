"""Customers: one per user of the host product, made at Stripe once, and kept as Stripe has them."""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import ConflictError, NotFoundError, UnavailableError
from app.models.mirror import Mirrored
from app.provider.customer_objects import CustomerChanges, TaxId
from app.provider.objects import Customer, Snapshot
from app.provider.protocol import CustomerProvider
from app.services import forgetting, mirror, usage_totals
from app.services.derived_keys import with_derived_key
from app.services.mirror import NO_ROW, AsOf, Origin

USER_METADATA = "user_id"
_SYNC_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Buyer:
    """The user a purchase is for, as their token describes them."""

    user_id: str
    email: str | None = None
    name: str | None = None


def joined_user_id(oauth_provider: str, external_id: str) -> str:
    """One user id of two: e.g. github:1234. A provider's name has no colon in it, so that it can be read back."""
    return f"{oauth_provider}:{external_id}"


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


async def get(session: AsyncSession, id: str) -> models.Customer:
    """`id` is Stripe's, or a user id, which means the living customer or else the last. Raises NotFoundError.

    Stripe's goes first: whoever chooses their own user id must not be taken for another's customer. Not for users.
    """
    found = await session.scalar(
        select(models.Customer)
        .where(or_(models.Customer.stripe_id == id, models.Customer.user_id == id))
        .order_by(models.Customer.stripe_id != id, models.Customer.deleted, models.Customer.created.desc())
        .limit(1)
    )
    if found is None:
        raise NotFoundError("There is no such customer.", code="customer_not_found")
    return found


async def get_living(session: AsyncSession, id: str) -> models.Customer:
    """The same, for what can't be done with a deleted one. Raises ConflictError for it."""
    found = await get(session, id)
    refuse_deleted(found)
    return found


def refuse_deleted(customer: models.Customer) -> None:
    """Raises ConflictError for a customer who is deleted, or about to be: nothing may be sold to them any more."""
    if customer.deleted or customer.erased_at is not None:
        raise ConflictError("This customer is deleted.", code="customer_deleted")


async def list_living(
    session: AsyncSession, *, email: str | None, user_id: str | None, limit: int, starting_after: str | None
) -> list[models.Customer]:
    """Newest first, up to `limit` + 1 of them; an address is found however it is capitalised.

    `starting_after` is Stripe's id of a customer. Raises NotFoundError for one that isn't known.
    """
    page = select(models.Customer).where(~models.Customer.deleted)
    if email is not None:
        page = page.where(func.lower(models.Customer.email) == func.lower(email))
    if user_id is not None:
        page = page.where(models.Customer.user_id == user_id)
    place = tuple_(models.Customer.created, models.Customer.stripe_id)
    if starting_after is not None:
        last = await session.scalar(select(models.Customer).where(models.Customer.stripe_id == starting_after))
        if last is None:
            raise NotFoundError("There is no such customer.", code="customer_not_found", param="starting_after")
        page = page.where(place < (last.created, last.stripe_id))
    page = page.order_by(models.Customer.created.desc(), models.Customer.stripe_id.desc()).limit(limit + 1)
    return list((await session.scalars(page)).all())


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

    Raises ConflictError for a user who is being erased: what is done now must not be of somebody half forgotten.
    """
    closed = select(models.CreditAccount.id).where(
        models.CreditAccount.user_id == buyer.user_id, models.CreditAccount.status == "closed"
    )
    if await session.scalar(closed) is not None:
        raise ConflictError("This user is being erased.", code="customer_deleted")
    await release(session)
    who = hashlib.sha256(buyer.user_id.encode()).hexdigest()[:40]

    async def create(key: str) -> Snapshot[Customer]:
        return await provider.create_customer(metadata={USER_METADATA: buyer.user_id}, idempotency_key=key)

    made = await with_derived_key(f"billhook-customer-{who}", create, usable=lambda made: not made.object.deleted)
    # Stripe refuses what can't be an address; a token may carry anything.
    email = buyer.email if buyer.email and re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", buyer.email) else None
    known: CustomerChanges = {}
    if email:
        known["email"] = email
    if buyer.name:
        known["name"] = buyer.name
    return await provider.update_customer(made.object.id, **known) if known else made


async def ensure(
    session: AsyncSession,
    provider: CustomerProvider,
    buyer: Buyer,
    *,
    actor: str,
    details: CustomerChanges | None = None,
    tax_ids: Sequence[tuple[str, str]] = (),
) -> tuple[models.Customer, bool]:
    """The user's customer, and whether it is new. One that is there already is left as it is.

    `tax_ids` are (type, value). One that Stripe refuses is told of after the customer has been made.
    """
    if (known := await find_for_user(session, buyer.user_id)) is not None:
        return known, False
    made = await create_at_stripe(session, provider, buyer)
    if details:
        made = await provider.update_customer(made.object.id, **details)
    for type, value in tax_ids:
        key = hashlib.sha256(f"{made.object.id}\n{type}\n{value}".encode()).hexdigest()
        await provider.create_tax_id(made.object.id, type=type, value=value, idempotency_key=f"billhook-tax-id-{key}")
    await store_new(session, made, actor=actor)
    if (row := await find_for_user(session, buyer.user_id)) is None:
        raise _being_made()
    return row, True


async def store_new(session: AsyncSession, made: Snapshot[Customer], *, actor: str) -> None:
    """Store what `create_at_stripe` gave. Raises ConflictError (retryable) where the user has got another one."""
    await lock(session, made.object.id)
    try:
        # False: its webhook was faster.
        await sync(session, made.object, as_of=AsOf(at=made.at, revision=NO_ROW), origin=Origin(actor=actor))
    except UserTakenError as error:
        raise _being_made() from error


def _being_made() -> ConflictError:
    error = ConflictError("This user's customer is being set up.", code="customer_in_progress")
    error.retryable = True
    return error


async def change(
    session: AsyncSession,
    provider: CustomerProvider,
    customer: models.Customer,
    changes: CustomerChanges,
    *,
    idempotency_key: str,
    actor: str,
) -> models.Customer:
    """Change the customer at Stripe, and our row as Stripe then shows it."""
    stripe_id, revision = customer.stripe_id, customer.revision
    await release(session)
    await keep(
        session,
        models.Customer,
        await provider.update_customer(stripe_id, idempotency_key=idempotency_key, **changes),
        customer=stripe_id,
        revision=revision,
        sync=sync,
        again=lambda: provider.retrieve_customer(stripe_id),
        origin=Origin(actor=actor),
    )
    await session.refresh(customer)
    return customer


async def list_tax_ids(session: AsyncSession, provider: CustomerProvider, customer: models.Customer) -> Sequence[TaxId]:
    await release(session)
    return [] if customer.deleted else await provider.list_tax_ids(customer.stripe_id)


async def create_tax_id(
    session: AsyncSession,
    provider: CustomerProvider,
    customer: models.Customer,
    *,
    type: str,
    value: str,
    idempotency_key: str,
) -> TaxId:
    await release(session)
    return await provider.create_tax_id(customer.stripe_id, type=type, value=value, idempotency_key=idempotency_key)


async def delete_tax_id(
    session: AsyncSession, provider: CustomerProvider, customer: models.Customer, tax_id: str
) -> None:
    await release(session)
    await provider.delete_tax_id(customer.stripe_id, tax_id)


async def keep(
    session: AsyncSession,
    model: type[Mirrored],
    answer: Snapshot[Any],
    *,
    customer: str,
    revision: int,
    sync: Callable[..., Awaitable[bool]],
    again: Callable[[], Awaitable[Snapshot[Any]]],
    origin: Origin,
) -> None:
    """Store what Stripe answered to a change; `revision` is the row's from before, `customer` whose it is.

    If a webhook overtakes us meanwhile, Stripe is asked `again`: which of the two states is newer can't be told.
    Before the first write of the transaction.
    """
    for _ in range(_SYNC_ROUNDS):
        await lock(session, customer)
        if await sync(session, answer.object, as_of=AsOf(at=answer.at, revision=revision), origin=origin):
            return
        revision = await mirror.revision_of(session, model, answer.object.id)
        await release(session)
        answer = await again()
    raise UnavailableError("It is changing too fast; try again.", retry_after=1)


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
    erased = row is not None and row["erased_at"] is not None
    if (user_id := claim_of(row, customer)) and not erased:
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
    if applied and row is not None and "user_id" in values:
        await _take_usage(session, customer.id, values["user_id"])
    if applied and customer.deleted and row is not None:
        if erased:
            await forgetting.forget(session, row["id"], actor=origin.actor)
        elif row["user_id"] is not None:
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
            await _take_usage(session, heir.stripe_id, user_id)
            return


async def _take_usage(session: AsyncSession, stripe_id: str, user_id: str) -> None:
    """What was recorded for a customer who was no user's is from now on the user's."""
    await usage_totals.move(session, stripe_id, user_id)
    await session.execute(
        update(models.UsageEvent).where(models.UsageEvent.subject == stripe_id).values(subject=user_id)
    )
