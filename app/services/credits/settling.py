"""What Stripe's payments, refunds and disputes mean to purchases: uses are granted once, taken back, and restored.

All of it follows from our rows as they are, and not from what an event says has just happened: so it doesn't matter
which event comes first, which comes twice, and which never.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import structlog
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import CheckoutSession, CreditAccount, CreditPurchase, Customer, Dispute, PaymentIntent, Refund
from app.provider import objects, payment_objects
from app.services import audit, mirror, outbox
from app.services.catalog import Credits
from app.services.credits.book import open_book
from app.services.mirror import Origin
from app.values import unix_now

log = structlog.get_logger(__name__)

METADATA = "billhook_purchase"
"""What names the purchase at Stripe, on its payment intent and its Checkout session."""
RULES = "credit_rules"
"""Where a database session's `info` has what gives the catalogue's `Credits`; else the defaults apply."""

DAY = 86_400
_RETURNED = frozenset({"failed", "canceled"})
"""Refunds that give nothing back."""
_HARMLESS = frozenset({"won", "prevented", "warning_needs_response", "warning_under_review", "warning_closed"})
"""Disputes by which the bank keeps nothing. Whatever word Stripe may add is taken for one by which it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """How a purchase stands by the rows of its payment. Amounts are in minor units of its currency."""

    status: str
    failure_code: str | None
    amount_refunded: int
    amount_disputed: int

    def clawed(self, purchase: CreditPurchase) -> int:
        """How many of its uses are to be taken back in all: never more than it has."""
        lost = min(purchase.amount, self.amount_refunded + self.amount_disputed)
        return purchase.uses * lost // purchase.amount


def named_in(metadata: Mapping[str, str]) -> UUID | None:
    """The purchase that an object of Stripe's says it is for."""
    try:
        return UUID(metadata[METADATA])
    except (KeyError, ValueError):
        return None


async def follow_intent(session: AsyncSession, intent: payment_objects.PaymentIntent, *, origin: Origin) -> None:
    """After our row says what `intent` does. One that isn't the purchase's own changes nothing, whatever it says."""
    if (named := named_in(intent.metadata)) is None:
        await follow_payment(session, intent.id, origin=origin)
        return
    owner = await _lock_chain(session, payment_intent=intent.id)
    purchase = await _lock(session, CreditPurchase.payment_intent == intent.id)
    if purchase is None:
        purchase = await _lock(session, CreditPurchase.id == named)
        if purchase is None:
            return
        if purchase.payment_intent is not None or not await _is_its_buyers(session, purchase, owner):
            if intent.status == "succeeded":
                _log_mismatch(purchase, payment_intent=intent.id, reason="another_payment_intent")
            return
        # Checkout makes its intent when the buyer pays; its news may come before the session's.
        purchase.payment_intent = intent.id
    await _settle(session, purchase, owner, origin)


async def follow_session(session: AsyncSession, checkout: objects.CheckoutSession, *, origin: Origin) -> None:
    """After our row says what `checkout` does, which knows best what intent it made."""
    if METADATA not in checkout.metadata:
        return
    owner = await _lock_chain(session, checkout_session=checkout.id)
    purchase = await _lock(session, CreditPurchase.checkout_session == checkout.id)
    if purchase is None:
        return
    if checkout.payment_intent is not None and purchase.granted_at is None:
        purchase.payment_intent = checkout.payment_intent
    await _settle(session, purchase, owner, origin)


async def follow_payment(session: AsyncSession, payment_intent: str | None, *, origin: Origin) -> None:
    """After a refund or a dispute of what this intent collected."""
    of_it = select(CreditPurchase.id).where(CreditPurchase.payment_intent == payment_intent)
    if payment_intent is not None and (found := await session.scalar(of_it)) is not None:
        await settle(session, found, origin=origin)


async def settle(session: AsyncSession, purchase_id: UUID, *, origin: Origin) -> None:
    """Have a purchase, and its account's books, say what the rows of its payment do."""
    about = select(CreditPurchase.payment_intent, CreditPurchase.checkout_session).where(
        CreditPurchase.id == purchase_id
    )
    payment_intent, checkout_session = (await session.execute(about)).one()
    owner = await _lock_chain(session, payment_intent=payment_intent, checkout_session=checkout_session)
    if (purchase := await _lock(session, CreditPurchase.id == purchase_id)) is not None:
        await _settle(session, purchase, owner, origin)


async def lag(session: AsyncSession, purchase: CreditPurchase) -> dict[str, list[Any]]:
    """{field: [as it is, as the rows of its payment have it]}: what `settle` would change."""
    standing = await _standing(session, purchase)
    clawed = standing.clawed(purchase) if purchase.granted_at is not None else purchase.clawed
    names = ("status", "amount_refunded", "amount_disputed")
    pairs = {name: [getattr(purchase, name), getattr(standing, name)] for name in names}
    return {name: pair for name, pair in (pairs | {"clawed": [purchase.clawed, clawed]}).items() if pair[0] != pair[1]}


async def _lock_chain(
    session: AsyncSession, *, payment_intent: str | None = None, checkout_session: str | None = None
) -> UUID | None:
    """The customer's audit chain, locked before any row is: and whose it is.

    Whoever writes another row of the same payment meanwhile has it too: so one of the two sees the other's row.
    """
    of_intent = select(PaymentIntent.customer_id).where(PaymentIntent.stripe_id == payment_intent)
    of_session = select(CheckoutSession.customer_id).where(CheckoutSession.stripe_id == checkout_session)
    owner: UUID | None = await session.scalar(
        select(func.coalesce(of_intent.scalar_subquery(), of_session.scalar_subquery()))
    )
    await audit.lock(session, owner)
    return owner


async def _lock(session: AsyncSession, which: ColumnElement[bool]) -> CreditPurchase | None:
    """The purchase as it is now, and nobody else's until the commit."""
    return await session.scalar(
        select(CreditPurchase).where(which).with_for_update().execution_options(populate_existing=True)
    )


async def _is_its_buyers(session: AsyncSession, purchase: CreditPurchase, customer_id: UUID | None) -> bool:
    """Whether a payment of this customer can be the purchase's: metadata can be copied."""
    buyer = (
        select(CreditAccount.id)
        .join(Customer, Customer.user_id == CreditAccount.user_id)
        .where(CreditAccount.id == purchase.account_id, Customer.id == customer_id)
    )
    return await session.scalar(buyer) is not None


async def _settle(session: AsyncSession, purchase: CreditPurchase, owner: UUID | None, origin: Origin) -> None:
    """The one place where what becomes of a purchase is decided; its row and its audit chain are locked.

    Entries of the audit log come before the books are opened: see `book.open_book`.
    """
    now, change = unix_now(), _Change(session, purchase, owner, origin)
    was, clawed = purchase.status, purchase.clawed
    standing = await _standing(session, purchase)
    purchase.status, purchase.failure_code = standing.status, standing.failure_code
    purchase.amount_refunded, purchase.amount_disputed = standing.amount_refunded, standing.amount_disputed
    if standing.status == "failed" and was != "failed":
        log.info("purchase_failed", purchase_id=str(purchase.id), failure_code=purchase.failure_code)
    if standing.status == "mismatched" and was != "mismatched":
        _log_mismatch(purchase, payment_intent=purchase.payment_intent, reason="amount")
        await change.tell("credits.purchase_mismatched")
    granting = standing.status == "succeeded" and purchase.granted_at is None
    if granting:
        purchase.granted_at = now
        await change.record("granted")
    if purchase.granted_at is not None:
        purchase.clawed = standing.clawed(purchase)
    delta = purchase.clawed - clawed
    if delta:
        await change.record("clawed_back" if delta > 0 else "restored", clawed=clawed)
    await session.flush()
    if granting or delta:
        await _move(session, purchase, granting=granting, delta=delta, now=now)
    if granting:
        await change.tell("credits.purchased")
    if delta:
        await change.tell("credits.clawed_back" if delta > 0 else "credits.restored", changed=abs(delta))


async def _move(session: AsyncSession, purchase: CreditPurchase, *, granting: bool, delta: int, now: int) -> None:
    rules: Callable[[], Credits] = session.info.get(RULES, Credits)
    book = await open_book(session, rules(), now, account_id=purchase.account_id)
    if book is None:
        raise RuntimeError("A purchase without its account")  # which its foreign key forbids
    if granting:
        days = purchase.expires_days
        book.grant(
            purchase.uses,
            expires_at=None if days is None else now + days * DAY,
            purchase_id=purchase.id,
            key=f"grant:{purchase.id}",
        )
    if delta > 0:
        await book.claw_back(delta, purchase_id=purchase.id)
    elif delta < 0:
        await book.restore(-delta, purchase_id=purchase.id)
    await book.close()


@dataclass(frozen=True, slots=True)
class _Change:
    """How a change of a purchase is written down and told."""

    session: AsyncSession
    purchase: CreditPurchase
    owner: UUID | None
    origin: Origin

    async def record(self, what: str, **before: Any) -> None:
        row, event = self.purchase, f"purchase_{what}"
        log.info(event, purchase_id=str(row.id), account_id=str(row.account_id), uses=row.uses, clawed=row.clawed)
        await audit.record(
            self.session,
            actor=self.origin.actor,
            action=f"credit_purchase.{what}",
            subject=str(row.id),
            customer_id=self.owner,
            stripe_event_id=self.origin.stripe_event_id,
            before=before or None,
            after={name: getattr(row, name) for name in ("status", "uses", *_MONEY, "clawed")},
        )

    async def tell(self, type: str, **more: Any) -> None:
        if self.origin.silent:
            return
        row = self.purchase
        # Uses may go and come back again and again, and this transaction alone tells of its own time.
        key = f"{type}:{row.id}" if not more else f"{type}:{row.id}:{uuid4()}"
        news = outbox.Message(
            key=key,
            type=type,
            subject=str(row.account_id),
            customer_id=self.owner,
            stripe_event_id=self.origin.stripe_event_id,
            data={"purchase": str(row.id)} | {name: getattr(row, name) for name in _TOLD} | more,
        )
        await outbox.append(self.session, [news])


_MONEY = ("amount", "currency", "amount_refunded", "amount_disputed")
_TOLD = ("pack", "uses", *_MONEY, "clawed")


def _log_mismatch(purchase: CreditPurchase, *, payment_intent: str | None, reason: str) -> None:
    log.warning("purchase_mismatched", purchase_id=str(purchase.id), payment_intent=payment_intent, reason=reason)


async def _standing(session: AsyncSession, purchase: CreditPurchase) -> _Standing:
    paid_by = purchase.payment_intent
    intent = await _row(session, PaymentIntent, paid_by)
    checkout = await _row(session, CheckoutSession, purchase.checkout_session)
    status = "succeeded" if purchase.granted_at is not None else _status(purchase, intent, checkout)
    refunds = await _rows(session, Refund, paid_by)
    disputes = await _rows(session, Dispute, paid_by)
    return _Standing(
        status=status,
        failure_code=_failure_code(purchase, intent) if status == "failed" else None,
        amount_refunded=sum(refund.amount for refund in refunds if refund.status not in _RETURNED),
        amount_disputed=sum(
            # In another currency it says no more than that the payment is disputed.
            dispute.amount if dispute.currency == purchase.currency else purchase.amount
            for dispute in disputes
            if dispute.status not in _HARMLESS
        ),
    )


def _failure_code(purchase: CreditPurchase, intent: Any) -> str | None:
    shown = None if intent is None else intent.decline_code or intent.failure_code
    return shown or purchase.failure_code


def _status(purchase: CreditPurchase, intent: Any, checkout: Any) -> str:
    """What the payment's rows say, each None while there is none. A failed payment can still succeed."""
    if intent is None and checkout is None:
        return purchase.status  # e.g. a top-up that Stripe refused to make a payment of
    collected = []
    if intent is not None and intent.status == "succeeded":
        collected.append((intent.amount_received, intent.currency))
    if checkout is not None and checkout.status == "complete" and checkout.payment_status != "unpaid":
        collected.append((checkout.amount_total, checkout.currency))
    if collected:
        wanted = (purchase.amount, purchase.currency)
        return "succeeded" if all(what == wanted for what in collected) else "mismatched"
    if (intent is not None and intent.status == "canceled") or (checkout is not None and checkout.status == "expired"):
        # A top-up that was declined is canceled at once, so that it can't be paid later.
        return "failed" if purchase.mode == "auto_topup" else "canceled"
    if intent is not None and intent.status == "processing":
        return "processing"
    if intent is not None and intent.status == "requires_payment_method" and intent.failure_code is not None:
        return "failed"
    # Complete and not paid: a method that takes days.
    return "processing" if checkout is not None and checkout.status == "complete" else "pending"


async def _row(session: AsyncSession, model: type[PaymentIntent | CheckoutSession], stripe_id: str | None) -> Any:
    """The row's columns as they are now, past what the session has seen of it before."""
    table = mirror.table_of(model)
    return (await session.execute(table.select().where(table.c.stripe_id == stripe_id))).one_or_none()


async def _rows(session: AsyncSession, model: type[Refund | Dispute], payment_intent: str | None) -> Sequence[Any]:
    table = mirror.table_of(model)
    of_it = table.select().where(table.c.payment_intent == payment_intent, ~table.c.deleted)
    return (await session.execute(of_it)).all()
