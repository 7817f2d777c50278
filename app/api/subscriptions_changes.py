"""Changing a subscription: what it would cost, doing exactly that, and taking back what waits."""

from typing import Literal, Self
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import Field, model_validator

from app.api.deps import (
    ActorDep,
    CallerDep,
    CatalogDep,
    IdempotencyKeyDep,
    ProviderDep,
    RequiredIdempotencyKeyDep,
    SessionDep,
    WriteUserDep,
)
from app.api.paging import MAX_ID_LENGTH
from app.api.schemas import DecimalNumber, Input, Output
from app.api.subscriptions_shapes import CHANGED, SUBSCRIPTION_ID, ChangeResult, show_outcome
from app.provider.subscription_objects import PreviewLine
from app.services.catalog import Interval
from app.services.identity import User
from app.services.subscriptions import changing, reading, scheduling
from app.services.subscriptions.bills import Outcome
from app.services.subscriptions.changing import Shown
from app.services.subscriptions.wishes import Side, Wish
from app.values import Money

router = APIRouter(tags=["Subscription"])

PREVIEWED = CHANGED | {
    404: {"description": "`subscription_not_found`, `item_not_found`, `plan_not_found` or `price_not_found`"},
    409: {
        "description": "`subscription_not_changeable`, `nothing_to_change`, `currency_mismatch`, `payment_due`, "
        "`collection_paused`, …"
    },
}
CONFIRMED = CHANGED | {
    402: {"description": "`payment_failed`"},
    404: {"description": "`preview_not_found`, or as for the preview"},
    409: {
        "description": "`preview_stale`: something has changed since; `preview_expired`; `preview_confirmed`; "
        "`change_in_progress`, which can be retried"
    },
}


class ChangeWish(Input):
    """What the subscription is to be; what isn't said stays."""

    plan: str | None = Field(default=None, max_length=40, description="A key of GET /plans", examples=["enterprise"])
    price_id: str | None = Field(default=None, max_length=MAX_ID_LENGTH, description="Or the price it stands for")
    interval: Interval | None = Field(
        default=None, description="By which of the plan's `prices`; by the first unless said"
    )
    quantity: int | None = Field(default=None, ge=1, le=999_999, description="How many units, e.g. seats")
    item: str | None = Field(
        default=None,
        max_length=MAX_ID_LENGTH,
        description="Which item, where it has several; the one that is a plan unless said",
    )

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.plan is not None and self.price_id is not None:
            raise ValueError("Send plan or price_id, not both")
        return self


class PreviewWish(ChangeWish):
    """How, when, and with what discount."""

    proration: Literal["create_prorations", "always_invoice", "none"] = Field(
        default="always_invoice",
        description="The difference for the rest of the period: charged now (`always_invoice`), with the next invoice "
        "(`create_prorations`), or not at all",
    )
    at: Literal["now", "period_end"] = Field(default="now", description="When the change comes")
    promotion_code: str | None = Field(default=None, min_length=1, max_length=100, description="A code to apply")

    @model_validator(mode="after")
    def _discounts_come_now(self) -> Self:
        if self.promotion_code is not None and self.at == "period_end":
            raise ValueError("A promotion code is applied now, not at the period's end")
        return self

    def wish(self) -> Wish:
        return Wish(
            plan=self.plan,
            price_id=self.price_id,
            interval=self.interval,
            quantity=self.quantity,
            item=self.item,
            promotion_code=self.promotion_code,
        )


class PreviewChange(PreviewWish):
    """What is to be previewed of which subscription."""

    subscription_id: str | None = Field(default=None, **SUBSCRIPTION_ID)


class SideRead(Output):
    """The item before or after the change."""

    plan: str | None = Field(description="The plan's key; null for a price that plans.yaml doesn't know")
    price_id: str = Field(description="Stripe's price")
    quantity: int | None = Field(description="How many units")
    unit_amount_minor: int | None = Field(description="One unit per `interval`, in the currency's minor unit")
    interval: str | None = Field(description="`day`, `week`, `month` or `year`")

    @classmethod
    def of(cls, side: Side) -> Self:
        return cls(
            plan=side.plan,
            price_id=side.price,
            quantity=side.quantity,
            unit_amount_minor=side.unit_amount,
            interval=side.interval,
        )


class PreviewLineRead(Output):
    description: str | None = Field(description="In Stripe's words")
    amount: DecimalNumber = Field(description="In major units; below zero for what is given back")
    amount_minor: int = Field(description="The same in the currency's minor unit")
    quantity: int | None = Field(description="How many units")
    proration: bool = Field(description="Whether it is for a part of a period")
    period_start: int | None = Field(description="Unix seconds")
    period_end: int | None = Field(description="Unix seconds")

    @classmethod
    def of(cls, line: PreviewLine, currency: str) -> Self:
        return cls(
            description=line.description,
            amount=Money(line.amount, currency).decimal,
            amount_minor=line.amount,
            quantity=line.quantity,
            proration=line.proration,
            period_start=line.period_start,
            period_end=line.period_end,
        )


class ChangePreview(Output):
    """What a change would cost; confirming `preview_id` charges `amount_due` and nothing else."""

    preview_id: UUID = Field(description="Confirm the change with it")
    subscription_id: str = Field(description="What would change")
    currency: str = Field(description="ISO 4217, lower case")
    amount_due: DecimalNumber = Field(description="What is charged when it is confirmed, in major units")
    amount_due_minor: int = Field(description="The same in the currency's minor unit")
    invoice_total: DecimalNumber = Field(description="Total of the invoice with these `lines`, in major units")
    invoice_total_minor: int = Field(description="The same in the currency's minor unit")
    invoice_at: int | None = Field(
        description="When that invoice is made, unix seconds: now, where `amount_due` is to be paid, else the renewal"
    )
    lines: list[PreviewLineRead] = Field(description="What stands on it, at most the first ten")
    proration_date: int = Field(description="The moment it is prorated from, unix seconds; kept for the confirmation")
    expires_at: int = Field(description="Until when it can be confirmed, unix seconds")
    current: SideRead = Field(description="What the customer has")
    next: SideRead = Field(description="What the customer would have")

    @classmethod
    def of(cls, shown: Shown) -> Self:
        row, currency = shown.preview, shown.preview.currency
        return cls(
            preview_id=row.id,
            subscription_id=row.subscription,
            currency=currency,
            amount_due=Money(row.amount_due, currency).decimal,
            amount_due_minor=row.amount_due,
            invoice_total=Money(shown.invoice.total, currency).decimal,
            invoice_total_minor=shown.invoice.total,
            invoice_at=shown.invoice_at,
            lines=[PreviewLineRead.of(line, currency) for line in shown.invoice.lines],
            proration_date=row.proration_date,
            expires_at=int(row.expires_at.timestamp()),
            current=SideRead.of(shown.current),
            next=SideRead.of(shown.next),
        )


class ConfirmWish(ChangeWish):
    """Either `preview_id`, or with `at` period_end what is to come: nothing is charged for that now."""

    preview_id: UUID | None = Field(default=None, strict=False, description="What POST …/change/preview answered")
    at: Literal["period_end"] | None = Field(default=None, description="Without a preview: at the end of the period")

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        asked = self.model_fields_set - {"preview_id", "subscription_id"}
        if self.preview_id is not None and asked:
            raise ValueError("A preview says all of it: send nothing else with preview_id")
        if self.preview_id is None and self.at is None:
            raise ValueError("Send the preview_id of POST …/change/preview, or at: period_end")
        return self

    def wish(self) -> Wish:
        return Wish(
            plan=self.plan, price_id=self.price_id, interval=self.interval, quantity=self.quantity, item=self.item
        )


class ConfirmChange(ConfirmWish):
    """What is to be done with which subscription."""

    subscription_id: str | None = Field(default=None, **SUBSCRIPTION_ID)


class WithdrawChange(Input):
    """Nothing but which subscription is meant."""

    subscription_id: str | None = Field(default=None, **SUBSCRIPTION_ID)


@router.post("/subscription/change/preview", responses=PREVIEWED)
async def preview_subscription_change(
    *,
    session: SessionDep,
    provider: ProviderDep,
    catalog: CatalogDep,
    caller: CallerDep,
    user: WriteUserDep,
    body: PreviewChange,
) -> ChangePreview:
    """What a change of plan, price or quantity would cost; nothing is changed. Confirm it with `preview_id`.

    By a user's own token, what costs more is paid at once: another `proration` then needs a service key (403).
    """
    shown = await changing.preview(
        session,
        provider,
        catalog,
        await reading.own_live(session, user.user_id, body.subscription_id),
        body.wish(),
        proration=body.proration,
        at=body.at,
        pays_at_once=isinstance(caller, User),
    )
    return ChangePreview.of(shown)


@router.post("/subscription/change", responses=CONFIRMED)
async def change_subscription(
    *,
    request: Request,
    session: SessionDep,
    provider: ProviderDep,
    catalog: CatalogDep,
    user: WriteUserDep,
    actor: ActorDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    body: ConfirmChange,
) -> ChangeResult:
    """Do what was previewed, for what was shown; or let a change come at the period's end.

    With `requires_action` the change waits for the payment of its invoice until `pending_change_expires_at`.
    """
    if body.preview_id is not None:
        outcome = await changing.confirm(
            session,
            request.state.sessions,
            provider,
            catalog,
            preview_id=body.preview_id,
            user_id=user.user_id,
            subscription_id=body.subscription_id,
            idempotency_key=idempotency_key,
            actor=actor,
        )
    else:
        mine = await reading.own_live(session, user.user_id, body.subscription_id)
        row = await changing.at_period_end(
            session, provider, catalog, mine, body.wish(), idempotency_key=idempotency_key, actor=actor
        )
        outcome = Outcome(subscription=row)
    return await show_outcome(session, catalog, outcome)


@router.post("/subscription/change/withdraw", responses=CHANGED)
async def withdraw_subscription_change(
    *,
    session: SessionDep,
    provider: ProviderDep,
    catalog: CatalogDep,
    user: WriteUserDep,
    actor: ActorDep,
    idempotency_key: IdempotencyKeyDep,
    body: WithdrawChange | None = None,
) -> ChangeResult:
    """Take back a change that waits for the period's end; 409 `no_scheduled_change`."""
    mine = await reading.own_live(session, user.user_id, body.subscription_id if body else None)
    row = await scheduling.withdraw(session, provider, mine, idempotency_key=idempotency_key, actor=actor)
    return await show_outcome(session, catalog, Outcome(subscription=row))
