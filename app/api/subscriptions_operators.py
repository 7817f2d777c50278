"""Anybody's subscriptions, for operators: made, changed, paused, canceled and refunded."""

from dataclasses import replace
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Request
from pydantic import Field, model_validator
from typing_extensions import override

from app.api.deps import (
    USER_MEANT,
    CatalogDep,
    IdempotencyKeyDep,
    OperatorDep,
    ProviderDep,
    RequiredIdempotencyKeyDep,
    SessionDep,
)
from app.api.paging import MAX_ID_LENGTH
from app.api.schemas import DecimalNumber, Input
from app.api.subscriptions import Canceled, CancelWish, PauseWish, SubscriptionIdPath
from app.api.subscriptions_changes import CONFIRMED, PREVIEWED, ChangePreview, ConfirmWish, PreviewWish
from app.api.subscriptions_shapes import CHANGED, ChangeResult, SubscriptionRead, show_one, show_outcome
from app.models import Subscription
from app.provider.subscription_protocol import CollectionMethod, PaymentBehavior
from app.services.catalog import Interval
from app.services.subscriptions import canceling, changing, creating, pausing, reading, scheduling
from app.services.subscriptions.bills import Outcome
from app.services.subscriptions.canceling import RefundWish
from app.services.subscriptions.creating import NewItem, NewSubscription
from app.services.subscriptions.wishes import Wish
from app.values import Money

router = APIRouter(prefix="/subscriptions", tags=["Subscription"])

MetadataKey = Annotated[str, Field(min_length=1, max_length=40)]


async def get_meant(
    request: Request, session: SessionDep, _operator: OperatorDep, id: SubscriptionIdPath
) -> Subscription:
    """The subscription a path names, which must not have ended. What is done with it is told in its user's timeline."""
    row = await reading.get_live(session, id)
    owner = (await reading.owners(session, [row]))[row.customer_id]
    request.scope[USER_MEANT] = owner.user_id or owner.stripe_id
    return row


class NewItemInput(Input):
    """Exactly one of `plan` and `price_id` says what."""

    plan: str | None = Field(default=None, max_length=40, description="A key of GET /plans", examples=["pro"])
    price_id: str | None = Field(default=None, max_length=MAX_ID_LENGTH, description="Or the price it stands for")
    interval: Interval | None = Field(
        default=None, description="By which of the plan's `prices`; by the first unless said"
    )
    quantity: int = Field(default=1, ge=1, le=999_999, description="How many units, e.g. seats")

    @model_validator(mode="after")
    def _names_one_thing(self) -> Self:
        if (self.plan is None) == (self.price_id is None):
            raise ValueError("Send exactly one of plan and price_id")
        return self


class CreateSubscription(Input):
    """Exactly one of `customer` and `user_id` says whose."""

    customer: str | None = Field(default=None, max_length=MAX_ID_LENGTH, description="Stripe's id of a customer")
    user_id: str | None = Field(
        default=None, min_length=1, max_length=255, description="Or the user, who becomes a customer if they are none"
    )
    items: list[NewItemInput] = Field(min_length=1, max_length=20, description="What it consists of")
    trial_days: int | None = Field(default=None, ge=1, le=730, description="A trial first; once per customer")
    coupon: str | None = Field(default=None, min_length=1, max_length=MAX_ID_LENGTH, description="Id of a coupon")
    promotion_code: str | None = Field(default=None, min_length=1, max_length=100, description="Or a code")
    metadata: dict[MetadataKey, Annotated[str, Field(max_length=500)]] = Field(
        default_factory=dict, max_length=40, description="Kept at Stripe"
    )
    collection_method: CollectionMethod = Field(
        default="charge_automatically", description="`send_invoice` needs `days_until_due`"
    )
    days_until_due: int | None = Field(default=None, ge=0, le=365, description="For `send_invoice`")
    payment_behavior: PaymentBehavior = Field(
        default="allow_incomplete",
        description="What a first payment that fails makes of it: `incomplete`, or with `error_if_incomplete` nothing; "
        "`default_incomplete` leaves paying to the customer",
    )
    default_payment_method: str | None = Field(
        default=None, max_length=MAX_ID_LENGTH, description="What it is charged to; the customer's default unless said"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.customer is None) == (self.user_id is None):
            raise ValueError("Send exactly one of customer and user_id")
        if self.coupon is not None and self.promotion_code is not None:
            raise ValueError("Send coupon or promotion_code, not both")
        if (self.collection_method == "send_invoice") != (self.days_until_due is not None):
            raise ValueError("days_until_due goes with collection_method send_invoice")
        if self.payment_behavior == "pending_if_incomplete":
            raise ValueError("Nothing of a new subscription can be pending")
        return self


class UpdateSubscription(Input):
    """What isn't said stays."""

    metadata: dict[MetadataKey, Annotated[str, Field(max_length=500)] | None] | None = Field(
        default=None, max_length=50, description="Merged into what is there; null takes a key away"
    )
    default_payment_method: str | None = Field(
        default=None, min_length=1, max_length=MAX_ID_LENGTH, description="What it is charged to from now on"
    )


class OperatorPreview(PreviewWish):
    """As for customers, and with coupons."""

    coupon: str | None = Field(default=None, min_length=1, max_length=MAX_ID_LENGTH, description="Id of a coupon")

    @model_validator(mode="after")
    def _has_one_discount_now(self) -> Self:
        if self.coupon is not None and (self.promotion_code is not None or self.at == "period_end"):
            raise ValueError("A coupon is applied now, and without a promotion code")
        return self

    @override
    def wish(self) -> Wish:
        return replace(super().wish(), coupon=self.coupon)


class OperatorCancel(CancelWish):
    """How, why, and with what of the last payment."""

    refund: RefundWish = Field(
        default="none",
        description="When it ends at once: give back the last payment (`full`), or what of it is for unused time",
    )

    @model_validator(mode="after")
    def _refunds_at_once(self) -> Self:
        if self.refund != "none" and self.at_period_end:
            raise ValueError("A refund goes with at_period_end: false")
        return self


class OperatorCanceled(Canceled):
    refunded: DecimalNumber = Field(description="What is given back, in major units")
    refunded_minor: int = Field(description="The same in the currency's minor unit")


@router.post(
    "",
    status_code=201,
    responses={
        **CHANGED,
        402: {"description": "`payment_failed`, with `error_if_incomplete`"},
        404: {"description": "`customer_not_found`, `plan_not_found` or `price_not_found`"},
        409: {"description": "`trial_used`, `payment_method_missing`, `customer_deleted` or `plan_not_applied`"},
    },
)
async def create_subscription(
    *,
    session: SessionDep,
    provider: ProviderDep,
    catalog: CatalogDep,
    request: Request,
    operator: OperatorDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    body: CreateSubscription,
) -> ChangeResult:
    """Subscribe a customer, who may have other subscriptions. `requires_action` says that the first payment is due."""
    if body.user_id is not None:
        request.scope[USER_MEANT] = body.user_id
    outcome = await creating.create(
        session,
        provider,
        catalog,
        NewSubscription(
            items=[NewItem(**item.model_dump()) for item in body.items],
            **body.model_dump(exclude={"items", "customer", "user_id"}),
        ),
        user_id=body.user_id,
        customer=body.customer,
        idempotency_key=idempotency_key,
        actor=operator.actor,
    )
    return await show_outcome(session, catalog, outcome)


@router.patch("/{id}", responses=CHANGED)
async def update_subscription(
    *,
    session: SessionDep,
    provider: ProviderDep,
    catalog: CatalogDep,
    operator: OperatorDep,
    idempotency_key: IdempotencyKeyDep,
    meant: Annotated[Subscription, Depends(get_meant)],
    body: UpdateSubscription,
) -> SubscriptionRead:
    """Set its metadata, or what it is charged to."""
    row = await creating.update(
        session,
        provider,
        meant,
        metadata=body.metadata,
        default_payment_method=body.default_payment_method,
        idempotency_key=idempotency_key,
        actor=operator.actor,
    )
    return await show_one(session, catalog, row)


@router.post(
    "/{id}/cancel",
    responses={**CHANGED, 409: {"description": "`nothing_to_refund`, or its state forbids it"}},
)
async def cancel_subscription_by_id(
    *,
    session: SessionDep,
    provider: ProviderDep,
    operator: OperatorDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    meant: Annotated[Subscription, Depends(get_meant)],
    body: OperatorCancel | None = None,
) -> OperatorCanceled:
    """End it with its period, or at once, with or without a refund of the last payment. A refund is made once."""
    wish = body or OperatorCancel()
    refunded = await canceling.refund(session, provider, meant, wish.refund)
    row = await canceling.cancel(
        session,
        provider,
        meant,
        at_period_end=wish.at_period_end,
        reason=wish.reason,
        feedback=wish.feedback,
        idempotency_key=idempotency_key,
        actor=operator.actor,
    )
    told = Canceled.of(row)
    return OperatorCanceled(
        message=told.message,
        cancel_at=told.cancel_at,
        refunded=Money(refunded, row.currency or "usd").decimal,
        refunded_minor=refunded,
    )


@router.post("/{id}/resume", responses=CHANGED)
async def resume_subscription_by_id(
    *,
    session: SessionDep,
    provider: ProviderDep,
    catalog: CatalogDep,
    operator: OperatorDep,
    idempotency_key: IdempotencyKeyDep,
    meant: Annotated[Subscription, Depends(get_meant)],
) -> SubscriptionRead:
    """Take back a cancellation, or a change, that waits for the period's end."""
    row = await canceling.resume(
        session,
        provider,
        meant,
        idempotency_key=idempotency_key,
        actor=operator.actor,
    )
    return await show_one(session, catalog, row)


@router.post("/{id}/pause", responses=CHANGED)
async def pause_subscription_by_id(
    *,
    session: SessionDep,
    provider: ProviderDep,
    catalog: CatalogDep,
    operator: OperatorDep,
    idempotency_key: IdempotencyKeyDep,
    meant: Annotated[Subscription, Depends(get_meant)],
    body: PauseWish | None = None,
) -> SubscriptionRead:
    """Stop billing for a while, and with `pause` the service too."""
    wish = body or PauseWish()
    row = await pausing.pause(
        session,
        provider,
        meant,
        behavior=wish.behavior,
        resumes_at=wish.resumes_at,
        idempotency_key=idempotency_key,
        actor=operator.actor,
    )
    return await show_one(session, catalog, row)


@router.post("/{id}/unpause", responses=CHANGED)
async def unpause_subscription_by_id(
    *,
    session: SessionDep,
    provider: ProviderDep,
    catalog: CatalogDep,
    operator: OperatorDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    meant: Annotated[Subscription, Depends(get_meant)],
) -> ChangeResult:
    """End a pause. After `pause` a new period begins and is charged at once."""
    outcome = await pausing.unpause(
        session,
        provider,
        meant,
        idempotency_key=idempotency_key,
        actor=operator.actor,
    )
    return await show_outcome(session, catalog, outcome)


@router.post("/{id}/change/preview", responses=PREVIEWED)
async def preview_subscription_change_by_id(
    *,
    session: SessionDep,
    provider: ProviderDep,
    catalog: CatalogDep,
    _operator: OperatorDep,
    meant: Annotated[Subscription, Depends(get_meant)],
    body: OperatorPreview,
) -> ChangePreview:
    """What a change would cost; nothing is changed."""
    shown = await changing.preview(session, provider, catalog, meant, body.wish(), proration=body.proration, at=body.at)
    return ChangePreview.of(shown)


@router.post("/{id}/change", responses=CONFIRMED)
async def change_subscription_by_id(
    *,
    request: Request,
    session: SessionDep,
    provider: ProviderDep,
    catalog: CatalogDep,
    operator: OperatorDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    meant: Annotated[Subscription, Depends(get_meant)],
    body: ConfirmWish,
) -> ChangeResult:
    """Do what was previewed, for what was shown; or let a change come at the period's end."""
    if body.preview_id is not None:
        outcome = await changing.confirm(
            session,
            request.state.sessions,
            provider,
            catalog,
            preview_id=body.preview_id,
            user_id=None,
            subscription_id=meant.stripe_id,
            idempotency_key=idempotency_key,
            actor=operator.actor,
        )
    else:
        scheduled = await changing.at_period_end(
            session, provider, catalog, meant, body.wish(), idempotency_key=idempotency_key, actor=operator.actor
        )
        outcome = Outcome(subscription=scheduled)
    return await show_outcome(session, catalog, outcome)


@router.post("/{id}/change/withdraw", responses=CHANGED)
async def withdraw_subscription_change_by_id(
    *,
    session: SessionDep,
    provider: ProviderDep,
    catalog: CatalogDep,
    operator: OperatorDep,
    idempotency_key: IdempotencyKeyDep,
    meant: Annotated[Subscription, Depends(get_meant)],
) -> ChangeResult:
    """Take back a change that waits for the period's end."""
    row = await scheduling.withdraw(
        session,
        provider,
        meant,
        idempotency_key=idempotency_key,
        actor=operator.actor,
    )
    return await show_outcome(session, catalog, Outcome(subscription=row))
