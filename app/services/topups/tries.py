"""Tries to buy what is due, with what the customer's invoices are charged to, else with what was kept last.

Each try is a purchase, written down before Stripe is asked, and the top-up remembers it until its end is known: whoever
goes on after a crash finds it, and begins no other before. `worker/topups.py` asks Stripe between these functions.

Locks are taken in the order purchase, account, top-up: as settling and the account's books do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

import structlog
from sqlalchemy import any_, delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFoundError
from app.models import CreditPurchase, CreditTopup, Customer
from app.services import audit, customers, outbox, payment_methods
from app.services.catalog import Catalog, Credits, Pack
from app.services.credits import accounts
from app.services.credits.book import Book, open_book
from app.services.outbox import Message
from app.services.subscriptions.reading import ENDED

log = structlog.get_logger(__name__)

BREAKER = 3
"""So many declines in a row, and nothing is tried before something else is charged."""
PAUSES = (3600, 6 * 3600)
"""Seconds after the first decline, and after the second."""
WAIT_SECONDS = 600
"""Until it is looked again whether a payment method, or an account that may buy, is there by now."""
RETRY_SECONDS = 60
"""Until Stripe is asked again that could not be asked, or did not know yet."""
LEASE_SECONDS = 300
"""For how long a try is one worker's; far longer than Stripe is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A top-up that is one worker's until then."""

    account_id: UUID
    until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A purchase to be paid for. `amount` is in minor units of `currency`.

    One that is `resumed` may be known to Stripe already; where it isn't `wanted` any more, Stripe isn't asked for it.
    """

    account_id: UUID
    purchase_id: UUID
    payment_intent: str | None
    customer: str | None
    payment_method: str | None
    amount: int
    currency: str
    description: str | None
    created: int
    resumed: bool
    wanted: bool


def is_open(topup: CreditTopup) -> bool:
    """Whether the breaker is: nothing is tried before something else is charged."""
    return topup.failures >= BREAKER


async def claim(session: AsyncSession, *, now: int, most: int) -> Sequence[Claim]:
    """Take top-ups that are due, past those that others are taking; the longest due first."""
    due = (
        select(CreditTopup.account_id)
        .where(CreditTopup.due_at <= now)
        .order_by(CreditTopup.due_at)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    until = now + LEASE_SECONDS
    # ARRAY, so that the part with the locks is carried out once.
    taking = update(CreditTopup).where(CreditTopup.account_id == any_(func.array(due.scalar_subquery())))
    taken = await session.execute(
        taking.values(due_at=until).returning(CreditTopup.account_id).execution_options(synchronize_session=False)
    )
    return [Claim(account_id=account_id, until=until) for account_id in taken.scalars()]


async def put_off(session: AsyncSession, claimed: Claim, *, now: int) -> None:
    """Stripe could not be asked."""
    await session.execute(
        update(CreditTopup)
        .where(CreditTopup.account_id == claimed.account_id, CreditTopup.due_at == claimed.until)
        .values(due_at=now + RETRY_SECONDS)
        .execution_options(synchronize_session=False)
    )


async def begin(session: AsyncSession, catalog: Catalog, claimed: Claim, *, now: int) -> Attempt | None:
    """The try to go on with, or a new one; None when nothing is to be bought now, or it isn't this worker's any more.

    Stripe may be asked once this is committed, and not before.
    """
    account = await accounts.get(session, account_id=claimed.account_id)
    customer = await customers.find_for_user(session, account.user_id)
    if customer is not None and customer.erased_at is not None:
        customer = None
    await audit.lock(session, None if customer is None else customer.id)  # before the books: see `open_book`
    book = await open_account(session, catalog.credits, account.id, now)
    await book.close()  # what has expired counts
    topup = await lock(session, account.id)
    if topup is None or topup.due_at != claimed.until:
        return None
    can_pay = customer is not None and book.account.status == "active" and not await _is_owed_money(session, book)
    if topup.purchase_id is not None:
        wanted = can_pay and topup.threshold is not None
        purchase = await session.get_one(CreditPurchase, topup.purchase_id)
        return _attempt(purchase, topup, customer, catalog, resumed=True, wanted=wanted)
    method = await charged(session, account.user_id)
    if method is not None and method != topup.payment_method:
        topup.failures, topup.failure_code = 0, None
    pack = catalog.packs.get(topup.pack)
    enough = topup.threshold is None or book.available > topup.threshold
    if enough or is_open(topup) or book.account.status == "closed":
        topup.due_at = None
    elif not can_pay or method is None:
        topup.due_at = now + WAIT_SECONDS
    elif pack is None:
        log.warning("topup_pack_gone", account_id=str(topup.account_id), pack=topup.pack)
        topup.due_at = None
    else:
        topup.payment_method = method
        purchase = await _purchase(session, topup, pack, customer, now)
        return _attempt(purchase, topup, customer, catalog, resumed=False, wanted=True)
    await session.flush()
    return None


async def conclude(
    session: AsyncSession, rules: Credits, attempt: Attempt, *, made: bool, failure_code: str | None, now: int
) -> None:
    """Note what a try has come to, once, after what Stripe shows of it is stored; `made` says that it shows something.

    `failure_code` is None where nobody declined it.
    """
    purchase = await session.scalar(
        select(CreditPurchase)
        .where(CreditPurchase.id == attempt.purchase_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    book = await open_account(session, rules, attempt.account_id, now)
    await book.close()
    topup = await lock(session, attempt.account_id)
    if purchase is None or topup is None or topup.purchase_id != purchase.id:
        return  # another worker has
    if not made and purchase.status == "pending":
        purchase.status = "canceled" if failure_code is None else "failed"
    # Failed while Stripe was asked, so that it can be paid still: the next round cancels it, and counts it.
    open_still = purchase.status == "failed" and failure_code is None
    if open_still or purchase.status in {"pending", "processing"}:
        topup.due_at = now + RETRY_SECONDS
        await session.flush()
        return
    topup.purchase_id = None
    low = topup.threshold is not None and book.available <= topup.threshold
    if purchase.status == "succeeded":
        topup.failures, topup.failure_code, topup.due_at = 0, None, now if low else None
    elif failure_code is not None:
        purchase.failure_code = purchase.failure_code or failure_code
        topup.failures += 1
        topup.failure_code = failure_code
        topup.due_at = None if is_open(topup) else now + PAUSES[topup.failures - 1]
        await _tell(session, topup, purchase, book.account.user_id)
    else:
        # Canceled before Stripe knew of it: it is looked what is to be done instead. Mismatched: somebody must look.
        topup.due_at = now if purchase.status == "canceled" else None
    await end(session, topup)


# What invoices are charged to is the newest live subscription's method, else the customer's; else it is the newest
# that is kept: as in `charged`.
_CHARGED_ANEW = text(
    """
    UPDATE credit_topups SET due_at = :now
     WHERE account_id = ANY(ARRAY(
    SELECT topup.account_id
      FROM credit_topups AS topup
      JOIN credit_accounts AS account ON account.id = topup.account_id AND account.status = 'active'
      JOIN customers AS owner ON owner.user_id = account.user_id AND NOT owner.deleted AND owner.erased_at IS NULL
      LEFT JOIN LATERAL (
        SELECT default_payment_method AS method FROM subscriptions
         WHERE customer_id = owner.id AND NOT deleted AND status <> ALL(:ended) AND default_payment_method IS NOT NULL
         ORDER BY created DESC, stripe_id LIMIT 1) AS charged ON true
      JOIN LATERAL (
        SELECT stripe_id FROM payment_methods WHERE customer_id = owner.id AND NOT deleted
         ORDER BY stripe_id IS DISTINCT FROM coalesce(charged.method, owner.default_payment_method),
                  created DESC, stripe_id LIMIT 1) AS method ON true
     WHERE topup.failures > 0 AND topup.purchase_id IS NULL AND topup.threshold IS NOT NULL
       AND topup.payment_method IS DISTINCT FROM method.stripe_id
       AND (topup.due_at IS NULL OR topup.due_at > :soon)
       FOR UPDATE OF topup SKIP LOCKED))
    """
)


async def notice_new_methods(session: AsyncSession, *, now: int) -> None:
    """What was declined is due again once something else is charged: `begin` counts from nothing then."""
    asked = {"now": now, "soon": now + LEASE_SECONDS, "ended": list(ENDED)}
    await session.execute(_CHARGED_ANEW, asked)


async def charged(session: AsyncSession, user_id: str) -> str | None:
    """The payment method that `GET /payment-methods` calls the default; where there is none, the newest.

    A payment that keeps its method for later doesn't make it the customer's default.
    """
    theirs = await payment_methods.list_for_user(session, user_id=user_id)
    defaults = [method.stripe_id for method, is_default in theirs if is_default]
    return next(iter([*defaults, *(method.stripe_id for method, _ in theirs)]), None)


async def open_account(session: AsyncSession, rules: Credits, account_id: UUID, now: int) -> Book:
    if (book := await open_book(session, rules, now, account_id=account_id)) is None:
        raise NotFoundError("There is no such account.", code="account_not_found")
    return book


async def lock(session: AsyncSession, account_id: UUID) -> CreditTopup | None:
    """The top-up as it is now. Its account's books must be open: they are locked first."""
    return await session.scalar(
        select(CreditTopup)
        .where(CreditTopup.account_id == account_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )


async def end(session: AsyncSession, topup: CreditTopup) -> None:
    """One that was removed goes once nothing is under way any more."""
    await session.flush()
    if topup.threshold is None and topup.purchase_id is None:
        await session.execute(delete(CreditTopup).where(CreditTopup.account_id == topup.account_id))


async def _is_owed_money(session: AsyncSession, book: Book) -> bool:
    """Whether uses were spent whose money went back, or a bank holds some of it.

    Whoever wanted their money back must not be charged for the same again, by themselves and pack after pack.
    """
    disputed = select(CreditPurchase.id).where(
        CreditPurchase.account_id == book.account.id, CreditPurchase.amount_disputed > 0
    )
    return book.account.owed > 0 or await session.scalar(disputed.limit(1)) is not None


async def _purchase(
    session: AsyncSession, topup: CreditTopup, pack: Pack, customer: Customer | None, now: int
) -> CreditPurchase:
    """At the price of now."""
    terms = {
        "mode": "auto_topup",
        "pack": pack.key,
        "uses": pack.uses,
        "amount": pack.amount,
        "currency": pack.currency,
        "expires_days": pack.expires_days,
    }
    purchase = CreditPurchase(id=uuid4(), account_id=topup.account_id, status="pending", created=now, **terms)
    session.add(purchase)
    await session.flush()
    topup.purchase_id = purchase.id
    await session.flush()
    await audit.record(
        session,
        actor="system",
        action="credit_purchase.created",
        subject=str(purchase.id),
        customer_id=None if customer is None else customer.id,
        after=terms,
    )
    log.info(
        "purchase_created",
        purchase_id=str(purchase.id),
        account_id=str(topup.account_id),
        mode=purchase.mode,
        pack=pack.key,
    )
    return purchase


def _attempt(
    purchase: CreditPurchase,
    topup: CreditTopup,
    customer: Customer | None,
    catalog: Catalog,
    *,
    resumed: bool,
    wanted: bool,
) -> Attempt:
    pack = catalog.packs.get(purchase.pack)
    return Attempt(
        account_id=purchase.account_id,
        purchase_id=purchase.id,
        payment_intent=purchase.payment_intent,
        customer=None if customer is None else customer.stripe_id,
        payment_method=topup.payment_method,
        amount=purchase.amount,
        currency=purchase.currency,
        description=None if pack is None else pack.name,
        created=purchase.created,
        resumed=resumed,
        wanted=wanted,
    )


async def _tell(session: AsyncSession, topup: CreditTopup, purchase: CreditPurchase, user_id: str) -> None:
    customer = await customers.find_for_user(session, user_id)
    data = {
        "purchase": str(purchase.id),
        "pack": purchase.pack,
        "failure_code": topup.failure_code,
        "failures": topup.failures,
        "breaker_open": is_open(topup),
    }
    told = Message(
        key=f"credits.topup_failed:{purchase.id}",
        type="credits.topup_failed",
        subject=str(topup.account_id),
        customer_id=None if customer is None else customer.id,
        stripe_event_id=None,
        data=data,
    )
    await outbox.append(session, [told])
    log.warning("topup_declined", account_id=str(topup.account_id), **data)
