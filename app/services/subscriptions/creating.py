"""Subscriptions that operators make, and what they set of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import ConflictError, NotFoundError
from app.provider.objects import Snapshot, Subscription
from app.provider.protocol import BillingProvider
from app.provider.subscription_objects import ItemWish
from app.provider.subscription_protocol import CollectionMethod, DiscountWish, PaymentBehavior
from app.services import catalog as catalogs
from app.services import customers
from app.services.catalog import Catalog
from app.services.customers import Buyer
from app.services.mirror import NO_ROW, AsOf, Origin
from app.services.subscriptions import bills, following, reading, trials
from app.services.subscriptions.bills import Outcome

REQUEST_METADATA = "billhook_request"
"""Where a subscription's metadata says which request gave its trial, so that the same one may ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewItem:
    """By plan (and interval) or by price."""

    plan: str | None = None
    price_id: str | None = None
    interval: str | None = None
    quantity: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSubscription:
    items: Sequence[NewItem]
    trial_days: int | None = None
    coupon: str | None = None
    promotion_code: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    collection_method: CollectionMethod = "charge_automatically"
    days_until_due: int | None = None
    payment_behavior: PaymentBehavior = "allow_incomplete"
    default_payment_method: str | None = None


async def create(
    session: AsyncSession,
    provider: BillingProvider,
    catalog: Catalog,
    new: NewSubscription,
    *,
    user_id: str | None,
    customer: str | None,
    idempotency_key: str,
    actor: str,
) -> Outcome:
    """Subscribe a user, who becomes a customer if they are none, or a Stripe customer.

    Trials are given once: ConflictError `trial_used`. Raises PaymentFailedError with error_if_incomplete alone; else a
    first payment that fails leaves it incomplete, and the outcome says how to pay.
    """
    buyer = await _customer(session, user_id, customer)
    if buyer is not None:
        customers.refuse_deleted(buyer)
    prices = [
        await catalogs.price_for(session, catalog, plan=item.plan, price_id=item.price_id, interval=item.interval)
        for item in new.items
    ]
    owner = user_id if buyer is None else buyer.user_id
    if new.trial_days and await _had_trial(session, buyer, owner) and not await _gave(session, buyer, idempotency_key):
        raise _trial_used()
    made = None
    if buyer is None:
        made = await customers.create_at_stripe(session, provider, Buyer(user_id=str(user_id)))
    stripe_customer = made.object.id if made is not None else buyer.stripe_id if buyer is not None else ""
    await release(session)
    discounts: list[DiscountWish] = [] if new.coupon is None else [{"coupon": new.coupon}]
    if new.promotion_code is not None:
        discounts.append({"promotion_code": await provider.find_promotion_code(new.promotion_code)})
    known = {} if owner is None else {customers.USER_METADATA: owner}
    if new.trial_days:
        known[REQUEST_METADATA] = idempotency_key
    shown = await provider.create_subscription(
        customer=stripe_customer,
        items=[
            ItemWish(price=price.stripe_id, quantity=None if price.usage_type == "metered" else item.quantity)
            for price, item in zip(prices, new.items, strict=True)
        ],
        trial_period_days=new.trial_days,
        discounts=discounts,
        metadata={**new.metadata, **known},
        collection_method=new.collection_method,
        days_until_due=new.days_until_due,
        payment_behavior=new.payment_behavior,
        default_payment_method=new.default_payment_method,
        idempotency_key=idempotency_key,
    )
    invoice = shown.object.latest_invoice
    bill = None if invoice is None else await bills.fetch(session, provider, invoice)
    origin = Origin(actor=actor)
    await customers.lock(session, stripe_customer)
    if new.trial_days and await _has_other_trial(session, stripe_customer, shown.object.id):
        # Another request gave one since we looked: whoever comes second here lets go of theirs.
        await release(session)
        await provider.cancel_subscription(shown.object.id, idempotency_key=f"{idempotency_key}-cancel")
        raise _trial_used()
    if made is not None:
        try:
            await customers.sync(session, made.object, as_of=AsOf(at=made.at, revision=NO_ROW), origin=origin)
        except customers.UserTakenError as error:
            raise ConflictError("This user has become another customer meanwhile.", code="customer_changed") from error
    # A webhook may have stored it already: then that stands.
    await following.sync(session, shown.object, as_of=AsOf(at=shown.at, revision=NO_ROW), origin=origin)
    return await bills.store(session, await reading.get(session, shown.object.id), bill, origin)


async def update(
    session: AsyncSession,
    provider: BillingProvider,
    subscription: models.Subscription,
    *,
    metadata: Mapping[str, str | None] | None,
    default_payment_method: str | None,
    idempotency_key: str,
    actor: str,
) -> models.Subscription:
    """Set what is given; a metadata value of None takes its key away."""
    stripe_id = subscription.stripe_id

    async def call() -> Snapshot[Subscription]:
        return await provider.update_subscription(
            stripe_id,
            metadata=metadata,
            default_payment_method=default_payment_method,
            idempotency_key=idempotency_key,
        )

    return await following.carry_out(session, provider, subscription, call, Origin(actor=actor))


async def _customer(session: AsyncSession, user_id: str | None, customer: str | None) -> models.Customer | None:
    if customer is None:
        return None if user_id is None else await customers.find_for_user(session, user_id)
    found = await session.scalar(
        select(models.Customer).where(models.Customer.stripe_id == customer, ~models.Customer.deleted)
    )
    if found is None:
        raise NotFoundError("There is no such customer.", code="customer_not_found", param="customer")
    return found


async def _has_other_trial(session: AsyncSession, customer: str, subscription: str) -> bool:
    another = (
        select(models.Subscription.id)
        .join(models.Customer, models.Customer.id == models.Subscription.customer_id)
        .where(
            models.Customer.stripe_id == customer,
            models.Subscription.stripe_id != subscription,
            models.Subscription.trial_end.is_not(None),
        )
    )
    return await session.scalar(another.limit(1)) is not None


def _trial_used() -> ConflictError:
    return ConflictError("This customer has had a trial.", code="trial_used", param="trial_days")


async def _had_trial(session: AsyncSession, customer: models.Customer | None, user_id: str | None) -> bool:
    """Whether this customer has had a trial, or the user with any customer they ever were."""
    known = customer is not None and customer.trial_used
    return known or (user_id is not None and await trials.had(session, user_id))


async def _gave(session: AsyncSession, customer: models.Customer | None, request: str) -> bool:
    """Whether it was this very request that did, and its answer got lost: Stripe repeats it."""
    if customer is None:
        return False
    given = select(models.Subscription.id).where(
        models.Subscription.customer_id == customer.id,
        models.Subscription.stripe_metadata[REQUEST_METADATA].astext == request,
    )
    return await session.scalar(given.limit(1)) is not None
