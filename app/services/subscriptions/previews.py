"""What customers were shown that a change would cost, and that each is carried out by one request alone.

Carrying one out takes Stripe seconds, in which no lock may be held. So a request first claims the preview, in a
transaction of its own; who comes meanwhile, with this preview or another one of the same subscription, is refused.
"""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import Sessions, transaction
from app.errors import BillingError, ConflictError, NotFoundError, UnavailableError
from app.provider.objects import Subscription
from app.services import customers
from app.values import utcnow

LASTS = timedelta(minutes=30)
DEAD_AFTER = timedelta(seconds=180)
"""Longer than all of a confirmation's calls to Stripe may take. Whoever claimed a preview and has not come back by then
has lost its process, and holds up nobody any longer."""

_UNKNOWN_OUTCOME = frozenset({"idempotency_key_in_use"})


class PreviewStaleError(ConflictError):
    """What was shown is no longer what would be charged."""

    code = "preview_stale"

    def __init__(self) -> None:
        super().__init__("The subscription or its price has changed since this was shown; preview the change again.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to carry a preview out. `again`: an earlier try of the same request may have got somewhere."""

    preview: models.SubscriptionPreview
    again: bool


def fingerprint(subscription: Subscription) -> str:
    """All that what a change costs depends on. An invoice or a period that is new changes it, too."""
    state: list[Any] = [
        subscription.status,
        sorted([item.id, item.price.id, item.quantity] for item in subscription.items),
        sorted(subscription.discounts),
        [subscription.current_period_start, subscription.current_period_end, subscription.trial_end],
        [subscription.cancel_at, subscription.cancel_at_period_end, subscription.schedule],
        [subscription.pause_collection, subscription.collection_method],
        [subscription.latest_invoice, subscription.pending_update_expires_at],
    ]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


@asynccontextmanager
async def claimed(
    sessions: Sessions, preview_id: UUID, *, user_id: str | None, subscription_id: str | None, by: str
) -> AsyncIterator[Claim]:
    """Claim a preview (of the user's and of the subscription, if named) for request `by` while it is carried out.

    It is given back where nothing can have come of it, and kept where Stripe's answer got lost: then only the same
    request can go on. Raises NotFoundError, and ConflictError where it must not be carried out.
    """
    async with transaction(sessions) as session:
        claim = await _claim(session, preview_id, user_id=user_id, subscription_id=subscription_id, by=by)
    try:
        yield claim
    except UnavailableError:
        raise
    except BillingError as error:
        if error.code not in _UNKNOWN_OUTCOME:
            async with transaction(sessions) as session:
                await session.execute(
                    update(models.SubscriptionPreview)
                    .where(models.SubscriptionPreview.id == preview_id, models.SubscriptionPreview.confirmed_by == by)
                    .values(confirmed_at=None, confirmed_by=None)
                )
        raise


async def finish(session: AsyncSession, preview: models.SubscriptionPreview) -> None:
    """Note that what was shown has come about."""
    mine = models.SubscriptionPreview.id == preview.id
    await session.execute(update(models.SubscriptionPreview).where(mine).values(done_at=func.now()))


async def _claim(
    session: AsyncSession, preview_id: UUID, *, user_id: str | None, subscription_id: str | None, by: str
) -> Claim:
    mine: list[ColumnElement[bool]] = [models.SubscriptionPreview.id == preview_id, ~models.Customer.deleted]
    if user_id is not None:
        mine.append(models.Customer.user_id == user_id)
    if subscription_id is not None:
        mine.append(models.SubscriptionPreview.subscription == subscription_id)
    found = select(models.SubscriptionPreview, models.Customer.stripe_id).join(
        models.Customer, models.Customer.id == models.SubscriptionPreview.customer_id
    )
    row = (await session.execute(found.where(*mine))).one_or_none()
    if row is None:
        raise NotFoundError("There is no such preview.", code="preview_not_found", param="preview_id")
    preview, customer = row
    await customers.lock(session, customer)
    await session.refresh(preview)
    if preview.confirmed_by == by and preview.done_at is None:
        return Claim(preview=preview, again=True)
    if preview.confirmed_by is not None:
        raise ConflictError("This preview has been confirmed already.", code="preview_confirmed")
    if preview.expires_at <= utcnow():
        raise ConflictError("This preview has expired; preview the change again.", code="preview_expired")
    await _refuse_others(session, preview)
    preview.confirmed_at, preview.confirmed_by = utcnow(), by
    return Claim(preview=preview, again=False)


async def _refuse_others(session: AsyncSession, preview: models.SubscriptionPreview) -> None:
    under_way = await session.scalar(
        select(models.SubscriptionPreview.id)
        .where(
            models.SubscriptionPreview.subscription == preview.subscription,
            models.SubscriptionPreview.confirmed_at > utcnow() - DEAD_AFTER,
            models.SubscriptionPreview.done_at.is_(None),
        )
        .limit(1)
    )
    if under_way is not None:
        busy = ConflictError("Another change of this subscription is under way.", code="change_in_progress")
        busy.retryable = True
        raise busy
