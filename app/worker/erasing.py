"""Carries the erasing of customers out, each step in a transaction of its own; also what was cut off before."""

from contextlib import suppress
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import Sessions, transaction
from app.errors import BillingError, NotFoundError
from app.models import Customer
from app.provider.protocol import BillingProvider
from app.services import account_erasing, backfill, customers, erasing
from app.services.subscriptions.reading import ENDED
from app.worker import customers_first

log = structlog.get_logger(__name__)


async def erase(
    sessions: Sessions, provider: BillingProvider, id: str, *, cancel_subscriptions: bool, actor: str
) -> Customer:
    """What is left of the customer. Raises as `erasing.begin` does, and what Stripe says: then it is only begun."""
    if not cancel_subscriptions:
        await _refuse_subscribed(sessions, provider, id)
    async with transaction(sessions) as session:
        begun = await erasing.begin(session, id, cancel_subscriptions=cancel_subscriptions, actor=actor)
        left = set(await erasing.unfinished(session)).intersection(begun.customers)
    for stripe_id in sorted(left):
        await _finish(sessions, provider, stripe_id, actor=actor)
    async with transaction(sessions) as session:
        return await customers.get(session, begun.stripe_id)


async def _refuse_subscribed(sessions: Sessions, provider: BillingProvider, id: str) -> None:
    """Raises SubscribedError for a live subscription at Stripe: one that was just bought may not be known here yet."""
    async with transaction(sessions) as session:
        asked = await erasing.not_begun(session, id)
    for stripe_id in asked:
        with suppress(NotFoundError):  # nor has such a customer any
            page = await provider.list_subscriptions(customer=stripe_id)
            if any(subscription.status not in ENDED for subscription in page.objects):
                raise erasing.SubscribedError


async def erase_account(sessions: Sessions, id: str, *, actor: str) -> UUID:
    """The id of the account whose user was erased. Raises as `account_erasing.find` does."""
    async with transaction(sessions) as session:
        account_id = await account_erasing.find(session, id)
    async with transaction(sessions) as session:
        await account_erasing.begin(session, account_id, actor=actor)
    await _finish_account(sessions, account_id, actor=actor)
    return account_id


async def finish_erasing(sessions: Sessions, provider: BillingProvider) -> None:
    """Whatever was begun and not done; and empty the events that have told of the erased since."""
    async with transaction(sessions) as session:
        left = await erasing.unfinished(session)
    for stripe_id in left:
        try:
            await _finish(sessions, provider, stripe_id, actor="system")
        except BillingError as error:
            log.warning("customer_erase_delayed", customer=stripe_id, error=error.code)
    async with transaction(sessions) as session:
        accounts = await account_erasing.unfinished(session)
    for account_id in accounts:
        try:
            await _finish_account(sessions, account_id, actor="system")
        except BillingError as error:
            log.warning("account_erase_delayed", account_id=str(account_id), error=error.code)
    async with transaction(sessions) as session:
        await erasing.empty_late_events(session)


async def _finish_account(sessions: Sessions, account_id: UUID, *, actor: str) -> None:
    renaming = True
    while renaming:
        async with transaction(sessions) as session:
            renaming = await account_erasing.rename_some(session, account_id)
    async with transaction(sessions) as session:
        await account_erasing.complete(session, account_id, actor=actor)


async def _finish(sessions: Sessions, provider: BillingProvider, stripe_id: str, *, actor: str) -> None:
    with suppress(NotFoundError):  # another account's, or of test data that was deleted
        await provider.delete_customer(stripe_id)
    renaming = True
    while renaming:
        async with transaction(sessions) as session:
            renaming = await erasing.rename_some(session, stripe_id)
    async with transaction(sessions) as session:
        await erasing.complete(session, stripe_id, actor=actor)
    async with transaction(sessions) as session:
        canceled = await erasing.live_subscriptions(session, stripe_id)
    for subscription in canceled:
        with suppress(BillingError):  # the webhook says so too
            await _follow(sessions, provider, subscription, actor=actor)


async def _follow(sessions: Sessions, provider: BillingProvider, subscription: str, *, actor: str) -> None:
    """Have our row say now what Stripe did with the subscription."""

    async def work(session: AsyncSession, /, *, claim_user: bool, last: bool) -> None:  # noqa: ARG001 - Work's own
        await backfill.take_over(
            session, provider, ("subscription", subscription), None, actor=actor, history_until=0, claim_user=claim_user
        )

    await customers_first.write(sessions, provider, work, actor=actor)
