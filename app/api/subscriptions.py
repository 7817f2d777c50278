"""The caller's subscription: see it, cancel it, take the cancellation back."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from app import models
from app.api import problems
from app.api.deps import ActorDep, CatalogDep, IdempotencyKeyDep, ProviderDep, ReadUserDep, SessionDep, WriteUserDep
from app.api.schemas import DecimalNumber, Input, Output
from app.errors import NotFoundError
from app.services import access, subscriptions
from app.services.catalog import Catalog
from app.values import Money, unix_now

router = APIRouter(prefix="/subscription", tags=["Subscription"])

CHANGED: dict[int | str, dict[str, Any]] = {
    404: {"description": "`subscription_not_found`: there is none that lives"},
    409: {"description": "Its state forbids it; `idempotency_key_in_use` can be retried"},
    **problems.FROM_STRIPE,
}


class SubscriptionRead(Output):
    """The newest subscription that has not ended, else the last that did. Times are unix seconds."""

    id: str = Field(description="Stripe's id", examples=["sub_1QxYz"])
    status: str = Field(
        description="Stripe's word: trialing, active, past_due, unpaid, canceled, paused, incomplete, …"
    )
    plan: str | None = Field(description="The plan's key; null for a price that plans.yaml doesn't know")
    plan_name: str | None = Field(description="What customers read")
    price_id: str | None = Field(description="Stripe's price", examples=["price_1QxYz"])
    quantity: int | None = Field(description="How many units of the price")
    plan_amount: DecimalNumber | None = Field(description="Price of one unit per `interval` in major units")
    plan_amount_minor: int | None = Field(description="The same in the currency's minor unit")
    currency: str | None = Field(description="ISO 4217, lower case")
    interval: str | None = Field(description="`day`, `week`, `month` or `year`")
    current_period_start: int | None = Field(description="When the period that is paid for began")
    current_period_end: int | None = Field(description="When it ends")
    cancel_at_period_end: bool = Field(description="Whether the subscription ends with the period")
    cancel_at: int | None = Field(description="When it is to end, if that is settled")
    canceled_at: int | None = Field(description="When the cancellation was asked for")
    ended_at: int | None = Field(description="When it ended")
    trial_start: int | None = Field(description="When the trial began")
    trial_end: int | None = Field(description="When the trial ends or ended")
    created: int = Field(description="When it was made")

    @classmethod
    def of(cls, row: models.Subscription, catalog: Catalog) -> "SubscriptionRead":
        plan = catalog.plans.get(row.plan or "")
        price = None
        if row.unit_amount is not None and row.currency is not None:
            price = Money(row.unit_amount, row.currency).decimal
        return cls(
            id=row.stripe_id,
            status=row.status,
            plan=row.plan,
            plan_name=plan.name if plan else None,
            price_id=row.price,
            quantity=row.quantity,
            plan_amount=price,
            plan_amount_minor=row.unit_amount,
            currency=row.currency,
            interval=row.interval,
            current_period_start=row.current_period_start,
            current_period_end=row.current_period_end,
            cancel_at_period_end=row.ends_with_period,
            cancel_at=row.cancel_at,
            canceled_at=row.canceled_at,
            ended_at=row.ended_at,
            trial_start=row.trial_start,
            trial_end=row.trial_end,
            created=row.created,
        )


class SubscriptionStatus(Output):
    """What the product needs to know at a glance."""

    tier: str = Field(description="The plan in force after the access policy, e.g. `free` once payment failed for good")
    status: str = Field(description="The subscription's status, or `none`")
    current_period_end: int | None = Field(description="Unix seconds")
    cancel_at_period_end: bool = Field(description="Whether the subscription ends with the period")


class CancelSubscription(Input):
    at_period_end: bool = Field(default=True, description="False ends it at once, without refund")
    reason: str | None = Field(default=None, min_length=1, max_length=500, description="The customer's own words")


class Canceled(Output):
    message: str = Field(description="For the customer, in English")
    cancel_at: int | None = Field(description="When it ends or ended, unix seconds")


class ResumeSubscription(Input):
    """Takes nothing."""


class Resumed(Output):
    message: str = Field(description="For the customer, in English")
    status: str = Field(description="The subscription's status")
    current_period_end: int | None = Field(description="When it renews, unix seconds")


@router.get("", responses={404: {"description": "`subscription_not_found`: before the first one"}})
async def get_subscription(session: SessionDep, catalog: CatalogDep, user: ReadUserDep) -> SubscriptionRead:
    """The subscription in full; 404 `subscription_not_found` before the first one."""
    row = await subscriptions.current(session, user.user_id)
    if row is None:
        raise NotFoundError("There is no subscription.", code="subscription_not_found")
    return SubscriptionRead.of(row, catalog)


@router.get("/status")
async def get_subscription_status(session: SessionDep, catalog: CatalogDep, user: ReadUserDep) -> SubscriptionStatus:
    """The plan in force; never 404."""
    held = await access.entitlements(session, catalog, user_id=user.user_id, now=unix_now())
    return SubscriptionStatus(
        tier=held.plan.key,
        status=held.status,
        current_period_end=held.current_period_end,
        cancel_at_period_end=held.cancel_at_period_end,
    )


@router.post("/cancel", responses=CHANGED)
async def cancel_subscription(
    *,
    session: SessionDep,
    provider: ProviderDep,
    user: WriteUserDep,
    actor: ActorDep,
    idempotency_key: IdempotencyKeyDep,
    body: CancelSubscription | None = None,
) -> Canceled:
    """End the subscription with the period that is paid for, or at once.

    Asking again for the end of the period is no error; once it has ended there is nothing left to cancel (404).
    """
    wish = body or CancelSubscription()
    row = await subscriptions.cancel(
        session,
        provider,
        user_id=user.user_id,
        at_period_end=wish.at_period_end,
        reason=wish.reason,
        idempotency_key=idempotency_key,
        actor=actor,
    )
    if row.ended_at is not None:
        return Canceled(message="The subscription has ended.", cancel_at=row.ended_at)
    end = row.cancel_at or row.current_period_end
    day = "with the current period" if end is None else f"on {datetime.fromtimestamp(end, UTC):%Y-%m-%d}"
    return Canceled(message=f"The subscription ends {day}.", cancel_at=end)


@router.post("/resume", responses=CHANGED)
async def resume_subscription(
    *,
    session: SessionDep,
    provider: ProviderDep,
    user: WriteUserDep,
    actor: ActorDep,
    idempotency_key: IdempotencyKeyDep,
    _body: ResumeSubscription | None = None,
) -> Resumed:
    """Take back a cancellation that has not come into force; 409 when there is none."""
    row = await subscriptions.resume(
        session, provider, user_id=user.user_id, idempotency_key=idempotency_key, actor=actor
    )
    return Resumed(message="The subscription goes on.", status=row.status, current_period_end=row.current_period_end)
