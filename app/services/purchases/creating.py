"""Buying packs of credits: with a payment intent or on Stripe's page, and once however many clicks there are."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid5

import structlog
from redis.asyncio import Redis
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import release
from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.models import CreditPurchase
from app.provider.objects import CheckoutSession, Snapshot
from app.provider.payment_objects import PaymentIntent
from app.provider.payment_protocol import FutureUsage
from app.provider.protocol import BillingProvider
from app.redis import courtesy_lock
from app.services import audit, catalog, checkout, customers, payment_rows
from app.services.catalog import Catalog, Pack
from app.services.credits import accounts, settling
from app.services.credits.accounts import AccountSuspendedError, Identity
from app.services.customers import Buyer
from app.services.derived_keys import with_derived_key
from app.services.mirror import NO_ROW, AsOf, Origin
from app.services.purchases import reading
from app.values import unix_now

log = structlog.get_logger(__name__)

LOCK_WAIT_SECONDS = 5.0
OPEN = ("pending", "failed")
_LOOKED_AT = 3  # of a buyer's open purchases of one pack: each may be asked of Stripe
_IDS = UUID("6f1d3e56-7a0a-5f5e-9f0b-3b8f3f0e2c11")
"""The namespace of purchases' ids."""
_OVER = frozenset({"succeeded", "canceled", "processing"})
"""What an intent says that nobody can be asked to pay any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be bought, and how: on Stripe's page with a `success_url`, else with a payment intent."""

    identity: Identity
    name: str | None = None
    pack: str | None
    success_url: str | None
    cancel_url: str | None
    save_payment_method: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A purchase and what the buyer needs to pay it: in none of its rows, and None where nothing is left to pay."""

    row: CreditPurchase
    new: bool = False
    client_secret: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """A wish held to today's catalogue; `price` is Stripe's, of what is paid on its page."""

    wish: Wish
    pack: Pack
    price: str | None

    @property
    def mode(self) -> str:
        return "payment_intent" if self.price is None else "checkout"

    @property
    def setup_future_usage(self) -> FutureUsage | None:
        return "off_session" if self.wish.save_payment_method else None

    @property
    def terms(self) -> dict[str, Any]:
        """What a purchase keeps of it, whatever plans.yaml says later."""
        return {
            "mode": self.mode,
            "pack": self.pack.key,
            "uses": self.pack.uses,
            "amount": self.pack.amount,
            "currency": self.pack.currency,
            "expires_days": self.pack.expires_days,
        }

    @property
    def request(self) -> dict[str, Any]:
        """Kept with a Checkout session: the same again gets the same session back."""
        wish = self.wish
        return {
            "price": self.price,
            "success_url": wish.success_url,
            "cancel_url": wish.cancel_url,
            "setup_future_usage": self.setup_future_usage,
        }


async def create(
    session: AsyncSession,
    provider: BillingProvider,
    redis: Redis,
    plans: Catalog,
    wish: Wish,
    *,
    idempotency_key: str | None,
    actor: str,
) -> Begun:
    """A purchase to be paid. Without a key, the one still open for the same thing, else a new one.

    Raises NotFoundError `pack_not_found`, ConflictError `pack_not_applied`, AccountSuspendedError: what is bought
    could not be spent.
    """
    pack = _pack(plans, wish.pack)
    order = _Order(wish=wish, pack=pack, price=None if wish.success_url is None else await _price(session, pack))
    await release(session)  # waiting for the lock must not hold a connection
    async with courtesy_lock(redis, f"purchase:{wish.identity.user_id}", wait=LOCK_WAIT_SECONDS):
        return await _open_or_reuse(session, provider, plans, order, idempotency_key=idempotency_key, actor=actor)


async def _open_or_reuse(
    session: AsyncSession,
    provider: BillingProvider,
    plans: Catalog,
    order: _Order,
    *,
    idempotency_key: str | None,
    actor: str,
) -> Begun:
    """All of Stripe's part first, then our writes.

    Without the Redis lock two requests may get here at once: they derive the same key, so Stripe gives both one
    intent, and the purchase's id is the key's.
    """
    user_id = order.wish.identity.user_id
    customer = await customers.find_for_user(session, user_id)
    if customer is not None:
        customers.refuse_deleted(customer)
    account = await accounts.find(session, user_id=user_id)
    if account is not None and account.status != "active":
        raise AccountSuspendedError("This account is suspended: what it buys could not be spent.")
    former = 0
    if idempotency_key is None and account is not None:
        known_as = None if customer is None else customer.stripe_id
        open_one, former = await _find_open(session, provider, account.id, order, customer=known_as)
        if open_one is not None:
            return open_one
    made = None
    if customer is None:
        buyer = Buyer(user_id=user_id, email=order.wish.identity.email, name=order.wish.name)
        made = await customers.create_at_stripe(session, provider, buyer)
    stripe_customer = made.object.id if made is not None else customer.stripe_id if customer is not None else ""
    if idempotency_key is None:
        # The customer's and not the user's: who comes back after being erased must not meet their old purchases.
        asked = json.dumps([stripe_customer, former, order.terms, order.request], sort_keys=True)
        idempotency_key = hashlib.sha256(asked.encode()).hexdigest()
    id = uuid5(_IDS, idempotency_key)
    if (known := await reading.find(session, id)) is not None:
        return await _again(session, provider, known, order)
    await release(session)
    shown = await _create_at_stripe(provider, order, id, stripe_customer, key=f"billhook-purchase-{idempotency_key}")
    if made is None:
        await customers.lock(session, stripe_customer)
    else:
        await customers.store_new(session, made, actor=actor)
    if (known := await reading.find(session, id)) is not None:  # the other click was faster
        return _begun(known, shown.object)
    row = await _store(session, plans, order, id, shown, actor=actor)
    return replace(_begun(row, shown.object), new=True)


def _pack(plans: Catalog, key: str | None) -> Pack:
    """The pack of that key; without one, the one on offer."""
    pack = next(iter(plans.packs.values()), None) if key is None else plans.packs.get(key)
    if pack is None:
        raise NotFoundError("There is no such pack.", code="pack_not_found", param="pack")
    return pack


async def _price(session: AsyncSession, pack: Pack) -> str:
    """Stripe's price of a pack. Raises ConflictError where it is another than the catalogue's, or there is none."""
    [terms] = pack.terms
    price = await catalog.find_on_sale(session, terms)
    if price is None or (price.unit_amount, price.currency) != (pack.amount, pack.currency):
        raise ConflictError(
            "This pack's price is not at Stripe yet: run `billhook plans apply`.", code="pack_not_applied"
        )
    return price.stripe_id


async def _find_open(
    session: AsyncSession, provider: BillingProvider, account_id: UUID, order: _Order, *, customer: str | None
) -> tuple[Begun | None, int]:
    """The latest purchase of the same thing that is open still, and how many purchases there have been.

    The number is read with it, tells the next one's key from those before it, and is the same for everybody who races.
    """
    theirs = CreditPurchase.account_id == account_id
    same = [getattr(CreditPurchase, name) == value for name, value in order.terms.items()]
    latest = (
        select(CreditPurchase.id)
        .where(theirs, *same, CreditPurchase.status.in_(OPEN))
        .order_by(CreditPurchase.created.desc(), CreditPurchase.id)
        .limit(_LOOKED_AT)
    )
    count = select(func.count()).select_from(CreditPurchase).where(theirs)
    ids, former = (await session.execute(select(func.array(latest.scalar_subquery()), count.scalar_subquery()))).one()
    rows = {row.id: row for row in await session.scalars(select(CreditPurchase).where(CreditPurchase.id.in_(ids)))}
    for id in ids:
        if (begun := await _still_open(session, provider, rows[id], order, customer=customer)) is not None:
            return begun, former
    return None, former


async def _still_open(
    session: AsyncSession, provider: BillingProvider, row: CreditPurchase, order: _Order, *, customer: str | None
) -> Begun | None:
    """The open purchase, if Stripe says so too, and it was asked for in the same way and by the same customer."""
    if row.checkout_session is not None:
        stored = await checkout.find(session, row.checkout_session)
        if stored is None or stored.request != order.request:
            return None
    shown = await _shown(session, provider, row)
    if isinstance(shown, CheckoutSession):
        payable = shown.status == "open"
    else:
        payable = shown.status not in _OVER and shown.setup_future_usage == order.setup_future_usage
    return _begun(row, shown) if payable and shown.customer == customer else None


async def _again(session: AsyncSession, provider: BillingProvider, row: CreditPurchase, order: _Order) -> Begun:
    """What the same key gave before. Raises InvalidRequestError where it was for something, or somebody, else."""
    buyer = await accounts.get(session, account_id=row.account_id)
    if (buyer.user_id, row.pack, row.mode) != (order.wish.identity.user_id, order.pack.key, order.mode):
        raise InvalidRequestError(
            "This Idempotency-Key came with another request before.",
            code="idempotency_key_reused",
            param="Idempotency-Key",
        )
    return _begun(row, await _shown(session, provider, row))


async def _shown(
    session: AsyncSession, provider: BillingProvider, row: CreditPurchase
) -> PaymentIntent | CheckoutSession:
    await release(session)
    if row.checkout_session is not None:
        return (await provider.retrieve_checkout_session(row.checkout_session)).object
    return (await provider.retrieve_payment_intent(str(row.payment_intent))).object


def _begun(row: CreditPurchase, shown: PaymentIntent | CheckoutSession) -> Begun:
    if isinstance(shown, CheckoutSession):
        return Begun(row=row, url=shown.url)
    return Begun(row=row, client_secret=None if shown.status in _OVER else shown.client_secret)


async def _create_at_stripe(
    provider: BillingProvider, order: _Order, id: UUID, customer: str, *, key: str
) -> Snapshot[PaymentIntent] | Snapshot[CheckoutSession]:
    """The same again for the same key, also after a crash has kept it from being stored."""
    metadata = {settling.METADATA: str(id)}
    wish, pack = order.wish, order.pack

    async def session(key: str) -> Snapshot[CheckoutSession]:
        user_id = wish.identity.user_id
        return await provider.create_payment_session(
            customer=customer,
            price=str(order.price),
            success_url=str(wish.success_url),
            cancel_url=wish.cancel_url,
            client_reference_id=user_id if len(user_id) <= checkout.MAX_REFERENCE else None,
            description=pack.name,
            setup_future_usage=order.setup_future_usage,
            metadata=metadata,
            idempotency_key=key,
        )

    async def intent(key: str) -> Snapshot[PaymentIntent]:
        return await provider.create_payment_intent(
            amount=pack.amount,
            currency=pack.currency,
            customer=customer,
            setup_future_usage=order.setup_future_usage,
            description=pack.name,
            metadata=metadata,
            idempotency_key=key,
        )

    if order.price is not None:
        return await with_derived_key(key, session, usable=lambda made: made.object.status == "open")
    return await with_derived_key(key, intent, usable=lambda made: made.object.status != "canceled")


async def _store(
    session: AsyncSession,
    plans: Catalog,
    order: _Order,
    id: UUID,
    shown: Snapshot[PaymentIntent] | Snapshot[CheckoutSession],
    *,
    actor: str,
) -> CreditPurchase:
    """The new purchase's row, with its account and what Stripe made; the customer is locked."""
    identity, now = order.wish.identity, unix_now()
    as_of, origin = AsOf(at=shown.at, revision=NO_ROW), Origin(actor=actor)
    made = shown.object
    if isinstance(made, CheckoutSession):
        await checkout.sync(session, made, as_of=as_of, origin=origin, request=order.request)
    else:
        await payment_rows.sync_intent(session, made, as_of=as_of, origin=origin)
    customer = await customers.get_for_user(session, identity.user_id)
    await audit.record(
        session,
        actor=actor,
        action="credit_purchase.created",
        subject=str(id),
        customer_id=customer.id,
        after=order.terms,
    )
    account, _ = await accounts.ensure(session, plans.credits, identity, now)
    row = CreditPurchase(
        id=id,
        account_id=account.id,
        status="pending",
        payment_intent=made.payment_intent if isinstance(made, CheckoutSession) else made.id,
        checkout_session=made.id if isinstance(made, CheckoutSession) else None,
        amount_refunded=0,
        amount_disputed=0,
        clawed=0,
        created=now,
        **order.terms,
    )
    session.add(row)
    await session.flush()
    log.info("purchase_created", purchase_id=str(id), account_id=str(account.id), mode=row.mode, pack=row.pack)
    return row
