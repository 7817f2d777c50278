"""What a customer wants of a subscription, and what exactly that means for its items and price."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.errors import BillingError, ConflictError, InvalidRequestError, NotFoundError, PermissionDeniedError
from app.provider.subscription_objects import ItemWish
from app.provider.subscription_protocol import DiscountWish, ProrationBehavior
from app.services import catalog as catalogs
from app.services.catalog import Catalog
from app.services.subscriptions.previews import PreviewStaleError

CHANGEABLE = frozenset({"trialing", "active", "past_due"})
_BILLED = frozenset({"active", "past_due"})

When = Literal["now", "period_end"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the customer asks for; None leaves as it is. `item` says which, where a subscription has several."""

    plan: str | None = None
    price_id: str | None = None
    interval: str | None = None
    quantity: int | None = None
    item: str | None = None
    promotion_code: str | None = None
    coupon: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What exactly is to be done, as it is kept with the preview. `discounts` None leaves them.

    `at_once`: it makes an invoice, which is collected at once. `prorated`: Stripe prorates it, from the preview's
    `proration_date`. `plan` and `interval` are what the price was chosen by. `moves`: the item becomes another one,
    it is not about discounts alone. `replaces` is the subscription schedule that has to let go first.
    """

    item: str
    price: str
    quantity: int | None
    plan: str | None
    interval: str | None
    on_sale: bool
    proration: ProrationBehavior
    at: When
    at_once: bool = False
    prorated: bool = False
    moves: bool = True
    replaces: str | None = None
    discounts: Sequence[DiscountWish] | None = None

    @property
    def items(self) -> list[ItemWish]:
        return [ItemWish(id=self.item, price=self.price, quantity=self.quantity)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One item before or after a change; `unit_amount` in minor units per `interval`."""

    plan: str | None
    price: str
    quantity: int | None
    unit_amount: int | None
    interval: str | None


async def resolve(
    session: AsyncSession,
    catalog: Catalog,
    subscription: models.Subscription,
    wish: Wish,
    *,
    proration: ProrationBehavior,
    at: When,
    pays_at_once: bool,
) -> tuple[Change, Side, Side]:
    """What exactly is asked for. Raises ConflictError where the subscription's state forbids it.

    With `pays_at_once` what costs more isn't given before it is paid: PermissionDeniedError.
    """
    _refuse_state(subscription, at, proration)
    item = _item(subscription, wish.item)
    held = await session.scalar(select(models.Price).where(models.Price.stripe_id == item["price"]))
    plan = _plan(wish, item)
    new_price = plan is not None or wish.price_id is not None
    price = held
    if new_price:
        price = await catalogs.price_for(session, catalog, plan=plan, price_id=wish.price_id, interval=wish.interval)
        if subscription.currency not in {None, price.currency}:
            raise ConflictError("A subscription's currency can't be changed.", code="currency_mismatch")
    price_id = item["price"] if price is None else price.stripe_id
    quantity = item["quantity"] if wish.quantity is None else wish.quantity
    if new_price and quantity == 0 and price is not None and price.usage_type != "metered":
        quantity = 1  # what was metered had none
    moves = (price_id, quantity) != (item["price"], item["quantity"])
    if not moves and wish.promotion_code is None and wish.coupon is None:
        raise ConflictError("That is what the customer has.", code="nothing_to_change")
    current = Side(
        plan=item["plan"],
        price=item["price"],
        quantity=item["quantity"],
        unit_amount=item["unit_amount"],
        interval=held.interval if held else subscription.interval,
    )
    following = Side(
        plan=item["plan"] if price is None else await catalogs.plan_of(session, price),
        price=price_id,
        quantity=quantity,
        unit_amount=item["unit_amount"] if price is None else price.unit_amount,
        interval=subscription.interval if price is None else price.interval,
    )
    # Another interval begins a new period, and so does beginning or ceasing to pay: both are billed at once
    # (docs.stripe.com/billing/subscriptions/billing-cycle#changing).
    restarts = _cycle(held, current) != _cycle(price, following)
    change = Change(
        item=item["id"],
        price=price_id,
        quantity=None if price is not None and price.usage_type == "metered" else quantity,
        plan=plan,
        interval=wish.interval,
        on_sale=new_price,
        proration=proration if at == "now" else "none",
        at=at,
        at_once=at == "now" and subscription.status in _BILLED and (proration == "always_invoice" or restarts),
        moves=moves,
    )
    if change.at_once and subscription.pause_collection is not None:
        raise ConflictError(
            "While its collection is paused nothing is charged: end that first, or let the change come later.",
            code="collection_paused",
        )
    waits = at == "now" and subscription.status in _BILLED and not change.at_once
    if pays_at_once and waits and _costs_more(current, following):
        raise PermissionDeniedError("What costs more is paid at once: only a service key may let that wait.")
    return change, current, following


def _costs_more(current: Side, following: Side) -> bool:
    """Whether a period does, of the same length; where no amount is known, it may."""
    if current.unit_amount is None or following.unit_amount is None:
        return True
    return following.unit_amount * (following.quantity or 0) > current.unit_amount * (current.quantity or 0)


def _plan(wish: Wish, item: Mapping[str, Any]) -> str | None:
    """The plan whose price is wanted: the one named, or what the customer has, by another interval."""
    if wish.interval is None or wish.plan is not None or wish.price_id is not None:
        return wish.plan
    held: str | None = item["plan"]
    if held is None:
        raise InvalidRequestError("An interval needs its plan.", code="plan_missing", param="interval")
    return held


def _cycle(price: models.Price | None, side: Side) -> tuple[str | None, int, bool]:
    return side.interval, 1 if price is None else price.interval_count, side.unit_amount == 0


def _refuse_state(subscription: models.Subscription, at: When, proration: ProrationBehavior) -> None:
    if subscription.status not in CHANGEABLE:
        raise ConflictError(
            f"A subscription that is {subscription.status} can't be changed.", code="subscription_not_changeable"
        )
    if subscription.status == "past_due" and at == "now" and proration != "none":
        # Stripe credits what is left of the period though it isn't paid, and with that credit the rest would be.
        raise ConflictError("What is owed has to be paid first.", code="payment_due")
    if at == "period_end" and subscription.ends_with_period:
        raise ConflictError("The subscription ends with its period.", code="subscription_canceling")


def _item(subscription: models.Subscription, id: str | None) -> Mapping[str, Any]:
    """The item that is meant: the one named, else the one that is a plan, else the first."""
    items: Sequence[Mapping[str, Any]] = subscription.items
    if id is not None:
        found = next((item for item in items if item["id"] == id), None)
        if found is None:
            raise NotFoundError("The subscription has no such item.", code="item_not_found", param="item")
        return found
    return next((item for item in items if item["plan"]), items[0])


async def refuse_former(session: AsyncSession, catalog: Catalog, change: Change) -> None:
    """A price that was replaced or withdrawn since must not be sold any more."""
    if not change.on_sale:
        return
    try:
        price = await catalogs.price_for(
            session,
            catalog,
            plan=change.plan,
            price_id=None if change.plan else change.price,
            interval=change.interval,
        )
    except BillingError as error:
        raise PreviewStaleError from error
    if price.stripe_id != change.price:
        raise PreviewStaleError
