"""Payment methods: listing, adding and removing them, which one is charged, and following Stripe."""

import calendar
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from redis.asyncio import Redis
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import ConflictError, NotFoundError
from app.provider.customer_objects import SetupIntent
from app.provider.objects import Customer, PaymentMethod, Snapshot, Subscription
from app.provider.protocol import BillingProvider
from app.redis import courtesy_lock
from app.services import customers, mirror, outbox
from app.services.customers import Buyer
from app.services.mirror import NO_ROW, AsOf, Origin
from app.services.subscriptions import following, reading

SOON_SECONDS = 30 * 86_400
LOCK_WAIT_SECONDS = 5.0


async def list_for_user(session: AsyncSession, *, user_id: str) -> list[tuple[models.PaymentMethod, bool]]:
    """Each with whether it is the one the next invoice is charged to; newest first.

    That is the live subscription's default where it has one (Checkout sets it there), else the customer's.
    """
    customer = await customers.find_for_user(session, user_id)
    if customer is None:
        return []
    alive = await reading.live(session, user_id)
    default = next(
        (subscription.default_payment_method for subscription in alive if subscription.default_payment_method),
        customer.default_payment_method,
    )
    found = await session.scalars(
        select(models.PaymentMethod)
        .where(models.PaymentMethod.customer_id == customer.id, ~models.PaymentMethod.deleted)
        .order_by(models.PaymentMethod.created.desc(), models.PaymentMethod.stripe_id)
    )
    return [(method, method.stripe_id == default) for method in found]


async def get_for_user(session: AsyncSession, *, user_id: str, id: str) -> tuple[models.PaymentMethod, bool]:
    """As in the list. Raises NotFoundError."""
    for method, is_default in await list_for_user(session, user_id=user_id):
        if method.stripe_id == id:
            return method, is_default
    raise _missing()


def _missing() -> NotFoundError:
    return NotFoundError("There is no such payment method.", code="payment_method_not_found")


def expires_soon(method: models.PaymentMethod, *, now: int) -> bool:
    """Whether a card's last month ends within 30 days, or has ended."""
    if method.exp_year is None or method.exp_month is None:
        return False
    return _ends(method.exp_year, method.exp_month) <= now + SOON_SECONDS


def _ends(year: int, month: int) -> int:
    """The first second after a month, UTC."""
    return calendar.timegm((year + month // 12, month % 12 + 1, 1, 0, 0, 0))


async def start_setup(
    session: AsyncSession, provider: BillingProvider, buyer: Buyer, *, idempotency_key: str, actor: str
) -> SetupIntent:
    """For the user's browser to save a payment method with. Their customer is made first if there is none.

    The method is stored here when Stripe tells that it was attached.
    """
    customer = await customers.find_for_user(session, buyer.user_id)
    if customer is not None:
        customers.refuse_deleted(customer)
    made = await customers.create_at_stripe(session, provider, buyer) if customer is None else None
    stripe_id = made.object.id if made is not None else customer.stripe_id if customer is not None else ""
    await release(session)
    intent = await provider.create_setup_intent(customer=stripe_id, idempotency_key=idempotency_key)
    if made is not None:
        await customers.store_new(session, made, actor=actor)
    return intent


@dataclass(slots=True, kw_only=True)
class _Changes:
    """What Stripe answered to changes of one customer, each with its row's revision from before."""

    customer: tuple[Snapshot[Customer], int] | None = None
    methods: list[tuple[Snapshot[PaymentMethod], int]]
    subscriptions: list[tuple[Snapshot[Subscription], int]]

    async def store(self, session: AsyncSession, stripe_id: str, origin: Origin) -> None:
        """Whatever a webhook wrote meanwhile stands: it tells of the same changes, or those that do follow it."""
        await customers.lock(session, stripe_id)
        for method, revision in self.methods:
            await sync(session, method.object, as_of=AsOf(at=method.at, revision=revision), origin=origin)
        if self.customer is not None:
            person, revision = self.customer
            await customers.sync(session, person.object, as_of=AsOf(at=person.at, revision=revision), origin=origin)
        for subscription, revision in self.subscriptions:
            as_of = AsOf(at=subscription.at, revision=revision)
            await following.sync(session, subscription.object, as_of=as_of, origin=origin)


def _alone(redis: Redis, customer: models.Customer) -> AbstractAsyncContextManager[bool]:
    """One change of a customer's methods at Stripe at a time: each sees there what the one before it has left."""
    return courtesy_lock(redis, f"payment-methods:{customer.stripe_id}", wait=LOCK_WAIT_SECONDS)


async def make_default(
    session: AsyncSession,
    provider: BillingProvider,
    redis: Redis,
    *,
    user_id: str,
    id: str,
    idempotency_key: str,
    actor: str,
) -> tuple[models.PaymentMethod, bool]:
    """Have everything to come charged to it: the customer's own invoices, and those of the live subscriptions.

    A payment that failed is tried again with it when Stripe next does. Raises NotFoundError for another's.
    """
    customer = await customers.get_for_user(session, user_id)
    alive = await reading.live(session, user_id)
    changes = _Changes(methods=await _unknown(session, provider, customer, id), subscriptions=[])
    async with _alone(redis, customer):
        await _set_default(provider, changes, customer, alive, id, idempotency_key=idempotency_key)
    await changes.store(session, customer.stripe_id, Origin(actor=actor))
    session.expire_all()
    return await get_for_user(session, user_id=user_id, id=id)


async def detach(
    session: AsyncSession,
    provider: BillingProvider,
    redis: Redis,
    *,
    user_id: str,
    id: str,
    idempotency_key: str,
    actor: str,
) -> None:
    """Remove it for good. If it was the one that is charged, the newest of the others takes its place.

    Raises NotFoundError for another's, and ConflictError for the last one that a live subscription could be charged
    to. How many there are, and which is charged, is Stripe's to say: what just changed may not be known here yet.
    """
    customer = await customers.get_for_user(session, user_id)
    alive = [one for one in await reading.live(session, user_id) if one.collection_method != "send_invoice"]
    await release(session)
    async with _alone(redis, customer):
        changes = _Changes(methods=await _unknown(session, provider, customer, id), subscriptions=[])
        revision = await mirror.revision_of(session, models.PaymentMethod, id)
        await release(session)
        if alive:
            page = await provider.list_payment_methods(customer.stripe_id, after=None)
            others = [method.id for method in page.objects if method.id != id]
            if not others:
                raise ConflictError(
                    "A live subscription needs a payment method: add another one first.", code="last_payment_method"
                )
            if id in await _charged(provider, customer, alive):
                await _set_default(provider, changes, customer, alive, others[0], idempotency_key=idempotency_key)
        detached = await provider.detach_payment_method(id, idempotency_key=f"{idempotency_key}-detach")
    changes.methods = [(detached, revision)]
    await changes.store(session, customer.stripe_id, Origin(actor=actor))


async def _unknown(
    session: AsyncSession, provider: BillingProvider, customer: models.Customer, id: str
) -> list[tuple[Snapshot[PaymentMethod], int]]:
    """The user's method as Stripe shows it, where it is so new that it isn't here; nothing where it is.

    Raises NotFoundError for another's.
    """
    row = await mirror.find_row(session, models.PaymentMethod, id)
    await release(session)
    if row is not None:
        if row["deleted"] or row["customer_id"] != customer.id:
            raise _missing()
        return []
    with suppress(NotFoundError):
        shown = await provider.retrieve_payment_method(id)
        if shown.object.customer == customer.stripe_id:
            return [(shown, NO_ROW)]
    raise _missing()


async def _charged(
    provider: BillingProvider, customer: models.Customer, alive: Sequence[models.Subscription]
) -> set[str | None]:
    """What the customer's own invoices and those of these subscriptions are charged to."""
    person = await provider.retrieve_customer(customer.stripe_id)
    shown = [await provider.retrieve_subscription(one.stripe_id) for one in alive]
    return {person.object.default_payment_method, *(one.object.default_payment_method for one in shown)}


async def _set_default(
    provider: BillingProvider,
    changes: _Changes,
    customer: models.Customer,
    alive: Sequence[models.Subscription],
    id: str,
    *,
    idempotency_key: str,
) -> None:
    """Subscriptions first: theirs is what counts, and a failure midway leaves the customer's as it was."""
    for subscription in alive:
        changed = await provider.set_subscription_payment_method(
            subscription.stripe_id, payment_method=id, idempotency_key=f"{idempotency_key}-{subscription.stripe_id}"
        )
        changes.subscriptions.append((changed, subscription.revision))
    person = await provider.update_customer(
        customer.stripe_id, default_payment_method=id, idempotency_key=f"{idempotency_key}-default"
    )
    changes.customer = (person, customer.revision)


# One statement, so that it takes little however many cards there are; what was announced stays announced.
ANNOUNCE_EXPIRING = text(
    """
    INSERT INTO outbox (key, type, subject, customer_id, data)
    SELECT format('payment_method.expiring:%s:%s-%s', card.stripe_id, card.exp_year, card.exp_month),
           'payment_method.expiring', card.stripe_id, card.customer_id,
           jsonb_build_object('brand', card.brand, 'last4', card.last4, 'exp_month', card.exp_month,
                              'exp_year', card.exp_year, 'is_default', coalesce(charged.method, '') = card.stripe_id)
      FROM payment_methods AS card
      JOIN customers AS owner ON owner.id = card.customer_id AND NOT owner.deleted AND owner.erased_at IS NULL
     CROSS JOIN LATERAL (
        SELECT coalesce(default_payment_method, owner.default_payment_method) AS method FROM subscriptions
         WHERE customer_id = owner.id AND NOT deleted AND status = ANY(:live)
         ORDER BY created DESC, stripe_id LIMIT 1) AS charged
     WHERE NOT card.deleted AND card.exp_year * 12 + card.exp_month = ANY(:months)
    ON CONFLICT (key) DO NOTHING
    """
)


async def announce_expiring(session: AsyncSession, *, now: int) -> None:
    """Tell, once for each card and date, which cards of customers with a live subscription expire within 30 days."""
    today = datetime.fromtimestamp(now, UTC)
    near = [(today.year, today.month), (today.year + today.month // 12, today.month % 12 + 1)]
    months = [year * 12 + month for year, month in near if _ends(year, month) <= now + SOON_SECONDS]
    await session.execute(ANNOUNCE_EXPIRING, {"months": months, "live": sorted(outbox.LIVE)})


async def sync(session: AsyncSession, method: PaymentMethod, *, as_of: AsOf, origin: Origin) -> bool:
    """Bring our row in line with Stripe's; one that left its customer stays as a tombstone. False when stale.

    Raises UnknownCustomerError before the customer it is attached to is stored.
    """
    customer = None if method.customer is None else await customers.of_object(session, method.customer)
    values = columns(method, None if customer is None else customer.id)
    return await mirror.upsert(session, models.PaymentMethod, method.id, values, as_of=as_of, origin=origin)


def columns(method: PaymentMethod, customer_id: UUID | None) -> dict[str, Any]:
    """What our row says when it shows this; of a card that left its customer, not which one it was."""
    return {
        "customer_id": customer_id,
        "livemode": method.livemode,
        "created": method.created,
        "deleted": customer_id is None,
        "type": method.type,
        "brand": method.brand,
        "last4": None if customer_id is None else method.last4,
        "exp_month": method.exp_month,
        "exp_year": method.exp_year,
    }
