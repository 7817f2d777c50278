"""Purchases of credits as they are: looked up, brought up to date, listed."""

from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from sqlalchemy import ColumnElement, Select, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import NotFoundError
from app.models import CreditPurchase
from app.provider.protocol import BillingProvider
from app.services import checkout, customers, mirror, payment_rows
from app.services.credits import settling
from app.services.mirror import AsOf, Origin

FINAL = frozenset({"succeeded", "canceled", "mismatched"})


async def find(session: AsyncSession, id: UUID) -> CreditPurchase | None:
    """As it is now, past what the session has seen of it before."""
    return await session.scalar(
        select(CreditPurchase).where(CreditPurchase.id == id).execution_options(populate_existing=True)
    )


async def get(
    session: AsyncSession, provider: BillingProvider, *, id: str, user_id: str | None, actor: str
) -> CreditPurchase:
    """A purchase as Stripe shows it this moment, its uses granted if it is paid.

    `id` is ours, its payment intent's or its Checkout session's. The page a buyer lands on may ask before any webhook
    has come; the answer is right all the same. Raises NotFoundError, for another user's too where `user_id` says whose
    it must be.
    """
    row = await get_known(session, id, user_id)
    if row.status not in FINAL:
        await _refresh(session, provider, row, Origin(actor=actor))
        await session.refresh(row)
    return row


async def _refresh(session: AsyncSession, provider: BillingProvider, row: CreditPurchase, origin: Origin) -> None:
    """Fetch what it is paid with, then store all of it. Whatever a webhook changed meanwhile stands."""
    paid_with, revisions = row.payment_intent, {}
    page = intent = None
    if row.checkout_session is not None:
        revisions["page"] = await mirror.revision_of(session, models.CheckoutSession, row.checkout_session)
        await release(session)
        page = await provider.retrieve_checkout_session(row.checkout_session)
        paid_with = page.object.payment_intent or paid_with
    if paid_with is not None:
        revisions["intent"] = await mirror.revision_of(session, models.PaymentIntent, paid_with)
        await release(session)
        intent = await provider.retrieve_payment_intent(paid_with)
    for owner in sorted({shown.object.customer for shown in (page, intent) if shown and shown.object.customer}):
        await customers.lock(session, owner)
    with suppress(customers.UnknownCustomerError):  # somebody has put another on it at Stripe
        if page is not None:
            as_of = AsOf(at=page.at, revision=revisions["page"])
            await checkout.sync(session, page.object, as_of=as_of, origin=origin)
        if intent is not None:
            as_of = AsOf(at=intent.at, revision=revisions["intent"])
            await payment_rows.sync_intent(session, intent.object, as_of=as_of, origin=origin)
    await settling.settle(session, row.id, origin=origin)


async def list_purchases(
    session: AsyncSession, *, user_id: str, limit: int, starting_after: str | None
) -> Sequence[CreditPurchase]:
    """The user's, newest first, up to `limit` + 1 of them. Raises NotFoundError for `starting_after` of others."""
    page = _of_user(user_id)
    if starting_after is not None:
        last = await session.scalar(page.where(_named(starting_after)))
        if last is None:
            raise _missing(param="starting_after")
        page = page.where(tuple_(CreditPurchase.created, CreditPurchase.id) < (last.created, last.id))
    page = page.order_by(CreditPurchase.created.desc(), CreditPurchase.id.desc()).limit(limit + 1)
    return (await session.scalars(page)).all()


async def get_known(session: AsyncSession, id: str, user_id: str | None) -> CreditPurchase:
    """As our own tables have it; arguments and errors are those of `get`."""
    row = await session.scalar((select(CreditPurchase) if user_id is None else _of_user(user_id)).where(_named(id)))
    if row is None:
        raise _missing()
    return row


def _named(id: str) -> ColumnElement[bool]:
    try:
        return CreditPurchase.id == UUID(id)
    except ValueError:
        return or_(CreditPurchase.payment_intent == id, CreditPurchase.checkout_session == id)


def _of_user(user_id: str) -> Select[CreditPurchase]:
    return (
        select(CreditPurchase)
        .join(models.CreditAccount, models.CreditAccount.id == CreditPurchase.account_id)
        .where(models.CreditAccount.user_id == user_id)
    )


def _missing(*, param: str | None = None) -> NotFoundError:
    return NotFoundError("There is no such purchase.", code="purchase_not_found", param=param)
