"""Erasing a customer: Stripe's first, then what is here; begun for good before Stripe is asked, so that it gets done.

From the beginning on nothing personal of the customer is written any more, whoever still tells it. Whatever stops the
rest (a crash, Stripe's absence) only delays it: the worker, a repeated call and Stripe's own event all go on with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError
from app.models import Customer, Subscription
from app.services import audit, customers, forgetting, mirror
from app.services.mirror import Origin
from app.services.subscriptions.reading import ENDED
from app.values import unix_now

RESENT_SECONDS = 40 * 86_400
"""For how long Stripe may still tell of a customer: an event can be sent again for 30 days, and be late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasing:
    """`stripe_id` was meant; `customers` are all of the same person, former ones too."""

    stripe_id: str
    customers: Sequence[str]


class SubscribedError(ConflictError):
    """A subscription lives, which nobody said may be ended."""

    def __init__(self) -> None:
        super().__init__(
            "This customer has a live subscription. Cancel it, or have it canceled with `cancel_subscriptions=true`.",
            code="has_live_subscription",
        )


async def not_begun(session: AsyncSession, id: str) -> list[str]:
    """Stripe's ids of the person's customers who live and are not being erased yet. Raises NotFoundError."""
    people = await of_person(session, await customers.get(session, id))
    return [person.stripe_id for person in people if not person.deleted and person.erased_at is None]


async def begin(session: AsyncSession, id: str, *, cancel_subscriptions: bool, actor: str) -> Erasing:
    """Settle that the person is to be erased; `id` is as for `customers.get`.

    Raises NotFoundError, and ConflictError for a live subscription we know of unless those are to be canceled.
    """
    meant = await customers.get(session, id)
    people = await of_person(session, meant)
    for stripe_id in sorted(person.stripe_id for person in people):
        await customers.lock(session, stripe_id)
    begun = Erasing(stripe_id=meant.stripe_id, customers=[person.stripe_id for person in people])
    waiting = Customer.id.in_([person.id for person in people]), Customer.erased_at.is_(None)
    if not (await session.scalars(select(Customer.id).where(*waiting))).all():  # as it is now that we have the locks
        return begun
    if not cancel_subscriptions and any([await live_subscriptions(session, id) for id in begun.customers]):
        raise SubscribedError
    await session.execute(
        update(Customer)
        .where(*waiting)
        .values(erased_at=unix_now(), revision=Customer.revision + 1)
        .execution_options(synchronize_session=False)
    )
    asked = audit.Entry(actor=actor, action="customer.erase_requested", subject=meant.stripe_id, customer_id=meant.id)
    await audit.append(session, [asked])
    await forgetting.close_accounts(session, [person.user_id for person in people if person.user_id is not None])
    return begun


async def of_person(session: AsyncSession, customer: Customer) -> list[Customer]:
    """The customer, and where it is a user's all that ever were theirs, also by what Stripe alone says."""
    return [customer] if customer.user_id is None else await of_user(session, customer.user_id)


async def of_user(session: AsyncSession, user_id: str) -> list[Customer]:
    theirs = or_(
        Customer.user_id == user_id,
        and_(Customer.user_id.is_(None), Customer.stripe_metadata[customers.USER_METADATA].astext == user_id),
    )
    return list((await session.scalars(select(Customer).where(theirs).order_by(Customer.created))).all())


async def live_subscriptions(session: AsyncSession, stripe_id: str) -> Sequence[str]:
    """Stripe's ids of the customer's subscriptions that have not ended, as far as we know."""
    found = (
        select(Subscription.stripe_id)
        .join(Customer, Customer.id == Subscription.customer_id)
        .where(Customer.stripe_id == stripe_id, ~Subscription.deleted, Subscription.status.not_in(ENDED))
    )
    return (await session.scalars(found)).all()


async def unfinished(session: AsyncSession) -> Sequence[str]:
    """Stripe's ids of the customers whose erasing was begun and not done."""
    named = Customer.user_id.is_distinct_from(forgetting.STAND_IN)
    return (await session.scalars(select(Customer.stripe_id).where(Customer.erased_at.is_not(None), named))).all()


async def rename_some(session: AsyncSession, stripe_id: str) -> bool:
    """Take the user's id out of a slice of the rows that name it; False when none are left. It may be many."""
    customer = await customers.of_object(session, stripe_id)
    name = forgetting.stand_in(customer.id)
    return customer.user_id not in {None, name} and await forgetting.rename_some(session, str(customer.user_id), name)


async def complete(session: AsyncSession, stripe_id: str, *, actor: str) -> None:
    """Forget the customer, whom Stripe no longer has. Twice is no error."""
    await customers.lock(session, stripe_id)
    customer = await customers.of_object(session, stripe_id)
    await forgetting.forget(session, customer.id, actor=actor)
    revision = await mirror.revision_of(session, Customer, stripe_id)
    await mirror.bury(session, Customer, stripe_id, revision=revision, origin=Origin(actor=actor))


async def empty_late_events(session: AsyncSession) -> None:
    """Empty what Stripe has told since of those who were erased, and what was still to be applied then."""
    late: Select[Any] = select(Customer.id).where(Customer.erased_at > unix_now() - RESENT_SECONDS)
    await forgetting.empty_events(session, late)
