"""Which subscriptions there are: a customer's own, and all of them page by page."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.errors import NotFoundError

ENDED = ("canceled", "incomplete_expired")
OWING = frozenset({"incomplete", "past_due", "unpaid", "paused"})
"""With which there may be an invoice for the customer to pay."""


async def live(session: AsyncSession, user_id: str) -> list[models.Subscription]:
    """The user's subscriptions that have not ended, newest first."""
    found = await session.scalars(
        select(models.Subscription)
        .join(models.Customer, models.Customer.id == models.Subscription.customer_id)
        .where(
            models.Customer.user_id == user_id,
            ~models.Customer.deleted,
            ~models.Subscription.deleted,
            models.Subscription.status.not_in(ENDED),
        )
        .order_by(models.Subscription.created.desc(), models.Subscription.stripe_id)
    )
    return list(found.all())


async def current(session: AsyncSession, user_id: str) -> models.Subscription | None:
    """The subscription a customer means by "my subscription": the newest live one, else the last that ended."""
    if alive := await live(session, user_id):
        return alive[0]
    return await session.scalar(
        select(models.Subscription)
        .join(models.Customer, models.Customer.id == models.Subscription.customer_id)
        .where(models.Customer.user_id == user_id, ~models.Customer.deleted)
        .order_by(models.Subscription.created.desc())
        .limit(1)
    )


async def own(session: AsyncSession, user_id: str, subscription_id: str | None) -> models.Subscription:
    """The user's subscription of that id; without one, their current one. Raises NotFoundError, for another's too."""
    if subscription_id is None:
        row = await current(session, user_id)
    else:
        row = await session.scalar(
            select(models.Subscription)
            .join(models.Customer, models.Customer.id == models.Subscription.customer_id)
            .where(
                models.Subscription.stripe_id == subscription_id,
                models.Customer.user_id == user_id,
                ~models.Customer.deleted,
                ~models.Subscription.deleted,
            )
        )
    if row is None:
        raise _missing()
    return row


async def own_live(session: AsyncSession, user_id: str, subscription_id: str | None) -> models.Subscription:
    """As `own`, for what can be done to subscriptions that have not ended: others aren't found."""
    row = await own(session, user_id, subscription_id)
    if row.status in ENDED:
        raise _missing()
    return row


async def get(session: AsyncSession, subscription_id: str) -> models.Subscription:
    """Anybody's subscription. Raises NotFoundError."""
    row = await session.scalar(
        select(models.Subscription).where(
            models.Subscription.stripe_id == subscription_id, ~models.Subscription.deleted
        )
    )
    if row is None:
        raise _missing()
    return row


async def get_live(session: AsyncSession, subscription_id: str) -> models.Subscription:
    """As `get`, but those that have ended aren't found."""
    row = await get(session, subscription_id)
    if row.status in ENDED:
        raise _missing()
    return row


async def list_page(
    session: AsyncSession,
    *,
    user_id: str | None = None,
    customer: str | None = None,
    status: str | None = None,
    plan: str | None = None,
    limit: int,
    starting_after: str | None,
) -> list[models.Subscription]:
    """Newest first; one more than `limit` when there are more. `customer` is Stripe's id or the user's.

    Raises NotFoundError when `starting_after` is none of them.
    """
    mine: list[ColumnElement[bool]] = [~models.Subscription.deleted]
    if user_id is not None:
        mine += [models.Customer.user_id == user_id, ~models.Customer.deleted]
    if customer is not None:
        mine.append(or_(models.Customer.stripe_id == customer, models.Customer.user_id == customer))
    if status is not None:
        mine.append(models.Subscription.status == status)
    if plan is not None:
        mine.append(models.Subscription.plan == plan)
    query = (
        select(models.Subscription)
        .join(models.Customer, models.Customer.id == models.Subscription.customer_id)
        .where(*mine)
        .order_by(models.Subscription.created.desc(), models.Subscription.stripe_id.desc())
        .limit(limit + 1)
    )
    if starting_after is not None:
        after = await session.scalar(query.where(models.Subscription.stripe_id == starting_after))
        if after is None:
            raise _missing(param="starting_after")
        query = query.where(
            or_(
                models.Subscription.created < after.created,
                and_(models.Subscription.created == after.created, models.Subscription.stripe_id < after.stripe_id),
            )
        )
    return list((await session.scalars(query)).all())


async def debts(session: AsyncSession, subscriptions: Sequence[models.Subscription]) -> Mapping[str, models.Invoice]:
    """The newest invoice that each of these still has to pay, by subscription; those without one have no entry."""
    owing = [
        row.stripe_id
        for row in subscriptions
        if row.status in OWING or row.pending_update_expires_at is not None or row.collection_method == "send_invoice"
    ]
    if not owing:
        return {}
    found = await session.scalars(
        select(models.Invoice)
        .where(models.Invoice.subscription.in_(owing), models.Invoice.status == "open", ~models.Invoice.deleted)
        .order_by(models.Invoice.created, models.Invoice.stripe_id)
    )
    return {str(invoice.subscription): invoice for invoice in found}


async def owners(session: AsyncSession, subscriptions: Sequence[models.Subscription]) -> Mapping[UUID, models.Customer]:
    """Their customers, by our rows' ids."""
    ids = {row.customer_id for row in subscriptions}
    found = await session.scalars(select(models.Customer).where(models.Customer.id.in_(ids)))
    return {customer.id: customer for customer in found}


def _missing(*, param: str | None = None) -> NotFoundError:
    return NotFoundError("There is no such subscription.", code="subscription_not_found", param=param)
