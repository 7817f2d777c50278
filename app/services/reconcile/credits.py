"""Prepaid credits: payments that brought nobody anything, purchases that lag behind their payment, and wrong books.

A purchase follows from the rows of its payment, which are compared like all others; this is about what came of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, and_, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.models import CreditAccount, CreditPurchase, Customer
from app.provider.payment_objects import PaymentIntent
from app.services import customers
from app.services.credits import settling, verify
from app.services.credits.verify import Place
from app.services.mirror import Origin
from app.services.reconcile.differences import Finding, was_missed

PURCHASE, ACCOUNT = "credit_purchase", "credit_account"
NOT_GRANTED, UNKNOWN, NOT_CLAWED = "purchase_not_granted", "purchase_unknown", "claw_back_missing"
WRONG = "ledger_differs"


class Compared(NamedTuple):
    """What a slice of accounts shows; `after` is where the next one begins, None behind the last.

    `lagging` are purchases that don't say what the rows of their payment do, unless that is changing just now.
    """

    accounts: int
    findings: Sequence[Finding]
    lagging: Sequence[UUID]
    after: str | None


async def compare(session: AsyncSession, *, after: str | None) -> Compared:
    """Hold a slice of accounts against their ledger, and their purchases against our rows of the payments.

    Wrong books can't be mended: which of two sums is right, no sum tells.
    """
    place = Place() if after is None else Place.parse(after)
    found = await verify.look(session, place)
    owners = await _owners(session, {wrong.account for wrong in found.violations})
    findings = [
        Finding(
            object=ACCOUNT,
            stripe_id="/".join(filter(None, (str(wrong.account), wrong.what, wrong.about))),
            customer=owners.get(wrong.account),
            cause=WRONG,
            fields={wrong.what: [wrong.found, wrong.expected]},
        )
        for wrong in found.violations
    ]
    lagging = [] if place.of_charges else await _lagging(session, place, found.next)
    return Compared(found.accounts, findings, lagging, None if found.next is None else str(found.next))


async def examine(session: AsyncSession, purchase_id: UUID, *, repair_as: str | None) -> Finding | None:
    """Look at a lagging purchase again; why, if it still lags. Mended, if `repair_as` says who."""
    purchase = await session.get_one(CreditPurchase, purchase_id, populate_existing=True)
    owner = (await _owners(session, {purchase.account_id})).get(purchase.account_id)
    if repair_as is not None and owner is not None:
        await customers.lock(session, owner)
    if not (lacks := await settling.lag(session, purchase)):
        return None
    finding = Finding(
        object=PURCHASE,
        stripe_id=purchase.payment_intent or purchase.checkout_session or str(purchase.id),
        customer=owner,
        cause=NOT_GRANTED if "status" in lacks else NOT_CLAWED,
        fields=lacks,
        repaired=repair_as is not None,
    )
    if repair_as is not None:
        await settling.settle(session, purchase_id, origin=Origin(actor=repair_as))
    return finding


async def unsold(session: AsyncSession, shown: Iterable[PaymentIntent], *, missed_in: UUID) -> list[Finding]:
    """Of payments as Stripe shows them, those that say they are for a purchase, succeeded, and brought nobody anything.

    But for what has arrived and waits in the inbox, and for what was given back as nobody here knows of it. `missed_in`
    is as for `differences.examine`.
    """
    paid = [intent for intent in shown if settling.METADATA in intent.metadata and intent.status == "succeeded"]
    named = {intent.id: settling.named_in(intent.metadata) for intent in paid}
    known = select(CreditPurchase).where(CreditPurchase.id.in_([id for id in named.values() if id is not None]))
    purchases: Mapping[UUID | None, CreditPurchase] = {
        row.id: row for row in await session.scalars(known.execution_options(populate_existing=True))
    }
    findings = []
    for intent in paid:
        purchase = purchases.get(named[intent.id])
        if purchase is None or purchase.payment_intent not in {None, intent.id}:
            if not await _is_given_back(session, intent):
                says = None if purchase is None else purchase.payment_intent
                findings.append(_finding(intent, UNKNOWN, {"payment_intent": [says, intent.id]}))
        elif (
            purchase.granted_at is None
            and purchase.status != "mismatched"
            and not await _waits(session, intent, missed_in)
        ):
            findings.append(_finding(intent, NOT_GRANTED, {"status": [purchase.status, "succeeded"]}))
    return findings


def _finding(intent: PaymentIntent, cause: str, fields: Mapping[str, Any]) -> Finding:
    return Finding(object=PURCHASE, stripe_id=intent.id, customer=intent.customer, cause=cause, fields=fields)


async def is_granted(session: AsyncSession, finding: Finding) -> bool:
    """Whether the purchase that was paid for by the payment of an earlier finding has been granted since."""
    granted = select(CreditPurchase.id).where(
        CreditPurchase.payment_intent == finding.stripe_id, CreditPurchase.granted_at.is_not(None)
    )
    return await session.scalar(granted) is not None


async def _waits(session: AsyncSession, intent: PaymentIntent, missed_in: UUID) -> bool:
    """Whether events are still to be applied that may tell of it, and came by themselves."""
    if await was_missed(session, intent.id, missed_in):
        return False
    keys = [key for key in (intent.id, intent.customer) if key is not None]
    waiting = exists().where(models.StripeEvent.key.in_(keys), models.StripeEvent.status == "pending")
    return bool(await session.scalar(select(waiting)))


async def _is_given_back(session: AsyncSession, intent: PaymentIntent) -> bool:
    refunded = exists().where(models.Charge.payment_intent == intent.id, models.Charge.refunded)
    return bool(await session.scalar(select(refunded)))


async def _lagging(session: AsyncSession, place: Place, until: Place | None) -> Sequence[UUID]:
    """Purchases of the slice's accounts that don't say what they should; few have anything to be looked at for."""

    def there(model: type[Any], *more: ColumnElement[bool]) -> ColumnElement[bool]:
        return exists().where(model.payment_intent == CreditPurchase.payment_intent, *more)

    collected = exists().where(
        models.PaymentIntent.stripe_id == CreditPurchase.payment_intent, models.PaymentIntent.status == "succeeded"
    )
    completed = exists().where(
        models.CheckoutSession.stripe_id == CreditPurchase.checkout_session,
        models.CheckoutSession.status == "complete",
        models.CheckoutSession.payment_status != "unpaid",
    )
    lost = or_(
        CreditPurchase.amount_refunded + CreditPurchase.amount_disputed > 0, there(models.Refund), there(models.Dispute)
    )
    open_end = until is None or until.of_charges
    candidates = select(CreditPurchase).where(
        CreditPurchase.account_id > place.after,
        *(() if open_end or until is None else (CreditPurchase.account_id <= until.after,)),
        or_(and_(CreditPurchase.granted_at.is_(None), or_(collected, completed)), lost),
    )
    purchases = (await session.scalars(candidates.execution_options(populate_existing=True))).all()
    return [purchase.id for purchase in purchases if await settling.lag(session, purchase)]


async def _owners(session: AsyncSession, accounts: set[UUID]) -> dict[UUID, str]:
    """Stripe's ids of the customers of these accounts' users, where they are any."""
    if not accounts:
        return {}
    found = await session.execute(
        select(CreditAccount.id, Customer.stripe_id)
        .join(Customer, and_(Customer.user_id == CreditAccount.user_id, ~Customer.deleted))
        .where(CreditAccount.id.in_(accounts))
    )
    return {row.id: row.stripe_id for row in found}
