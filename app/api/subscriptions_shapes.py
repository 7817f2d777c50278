"""How subscriptions look to callers."""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.api import problems
from app.api.paging import MAX_ID_LENGTH
from app.api.schemas import DecimalNumber, Output
from app.services import access
from app.services.catalog import Catalog
from app.services.subscriptions import reading, schedules
from app.services.subscriptions.bills import Outcome
from app.services.subscriptions.schedules import ScheduledChange
from app.values import Money, unix_now

CHANGED: dict[int | str, dict[str, Any]] = {
    404: {"description": "`subscription_not_found`: there is none that lives"},
    409: {"description": "Its state forbids it; `idempotency_key_in_use` can be retried"},
    **problems.FROM_STRIPE,
}

SUBSCRIPTION_ID: dict[str, Any] = {
    "min_length": 1,
    "max_length": MAX_ID_LENGTH,
    "description": "Which, where the customer has several; the newest that lives unless said",
    "examples": ["sub_1QxYz"],
}
"""What is said of the field or parameter that names one of the caller's subscriptions."""


class SubscriptionItemRead(Output):
    """One price the subscription consists of."""

    id: str = Field(description="Stripe's id", examples=["si_Qabc"])
    price_id: str = Field(description="Stripe's price")
    plan: str | None = Field(description="The plan's key; null for a price that plans.yaml doesn't know")
    quantity: int = Field(description="How many units; 0 for what is metered")
    unit_amount_minor: int | None = Field(description="One unit per interval, in the currency's minor unit")


class PauseRead(Output):
    """Why nothing is billed at the moment."""

    behavior: Literal["pause", "keep_as_draft", "mark_uncollectible", "void"] | str = Field(  # noqa: PYI051 - Stripe may add some
        description="`pause`: service stands still, too; else what becomes of invoices while service goes on"
    )
    resumes_at: int | None = Field(description="When it ends by itself, unix seconds")
    reason: str | None = Field(
        description="For `pause`, Stripe's word: `pause_requested`, `trial_end_without_payment_method`, …"
    )


class ScheduledChangeRead(Output):
    """What the subscription becomes."""

    at: int = Field(description="When, unix seconds")
    plan: str | None = Field(description="The plan's key; null for a price that plans.yaml doesn't know")
    price_id: str = Field(description="Stripe's price")
    quantity: int | None = Field(description="How many units")

    @classmethod
    def of(cls, change: ScheduledChange) -> Self:
        return cls(at=change.at, plan=change.plan, price_id=change.price, quantity=change.quantity)


class PaymentDue(Output):
    """What has to be paid, and how trying goes."""

    invoice: str = Field(description="Stripe's id")
    amount_due: DecimalNumber = Field(description="What is left to pay in major units")
    amount_due_minor: int = Field(description="The same in the currency's minor unit")
    currency: str = Field(description="ISO 4217, lower case")
    attempt_count: int = Field(description="How often Stripe has tried to collect it")
    next_payment_attempt: int | None = Field(description="When it will try again, unix seconds")
    hosted_invoice_url: str | None = Field(description="Where the customer can pay it")
    grace_ends_at: int | None = Field(description="When access ends unless it is paid, unix seconds")

    @classmethod
    def of(cls, invoice: models.Invoice, *, grace_ends_at: int | None) -> Self:
        return cls(
            invoice=invoice.stripe_id,
            amount_due=Money(invoice.amount_remaining, invoice.currency).decimal,
            amount_due_minor=invoice.amount_remaining,
            currency=invoice.currency,
            attempt_count=invoice.attempt_count,
            next_payment_attempt=invoice.next_payment_attempt,
            hosted_invoice_url=invoice.hosted_invoice_url,
            grace_ends_at=grace_ends_at,
        )


class SubscriptionRead(Output):
    """A subscription. The fields of its price are those of the first item. Times are unix seconds."""

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
    items: list[SubscriptionItemRead] = Field(description="All it consists of")
    collection_method: str | None = Field(description="`charge_automatically` or `send_invoice`")
    default_payment_method: str | None = Field(description="What it is charged to; null for the customer's default")
    pause: PauseRead | None = Field(description="Set while it is paused in some way")
    scheduled_change: ScheduledChangeRead | None = Field(description="What it becomes at the end of its period")
    pending_change_expires_at: int | None = Field(
        description="Until when a change waits for its `payment`; then it is dropped"
    )
    payment: PaymentDue | None = Field(description="Set while there is something for the customer to pay")
    customer: str = Field(description="Stripe's id of its customer", examples=["cus_Qabc"])
    user_id: str | None = Field(description="The user that customer is; null for customers made elsewhere")


async def show(session: AsyncSession, catalog: Catalog, rows: Sequence[models.Subscription]) -> list[SubscriptionRead]:
    """Each with what is scheduled and owed."""
    now = unix_now()
    coming = await schedules.upcoming(session, rows, now=now)
    debts = await reading.debts(session, rows)
    verdicts = await access.verdicts(session, catalog, debts.keys(), now=now) if debts else {}
    owners = await reading.owners(session, rows)
    shown = []
    for row in rows:
        plan, debt = catalog.plans.get(row.plan or ""), debts.get(row.stripe_id)
        verdict, change = verdicts.get(row.stripe_id), coming.get(row.stripe_id)
        amount = None
        if row.unit_amount is not None and row.currency is not None:
            amount = Money(row.unit_amount, row.currency).decimal
        shown.append(
            SubscriptionRead(
                id=row.stripe_id,
                status=row.status,
                plan=row.plan,
                plan_name=plan.name if plan else None,
                price_id=row.price,
                quantity=row.quantity,
                plan_amount=amount,
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
                items=[
                    SubscriptionItemRead(
                        id=item["id"],
                        price_id=item["price"],
                        plan=item["plan"],
                        quantity=item["quantity"],
                        unit_amount_minor=item["unit_amount"],
                    )
                    for item in row.items
                ],
                collection_method=row.collection_method,
                default_payment_method=row.default_payment_method,
                pause=_pause(row),
                scheduled_change=None if change is None else ScheduledChangeRead.of(change),
                pending_change_expires_at=row.pending_update_expires_at,
                payment=None
                if debt is None
                else PaymentDue.of(debt, grace_ends_at=None if verdict is None else verdict.grace_until),
                customer=owners[row.customer_id].stripe_id,
                user_id=owners[row.customer_id].user_id,
            )
        )
    return shown


async def show_one(session: AsyncSession, catalog: Catalog, row: models.Subscription) -> SubscriptionRead:
    [shown] = await show(session, catalog, [row])
    return shown


def _pause(row: models.Subscription) -> PauseRead | None:
    if row.status == "paused":
        return PauseRead(behavior="pause", resumes_at=None, reason=row.paused_reason)
    if row.pause_collection is not None:
        return PauseRead(behavior=row.pause_collection, resumes_at=row.pause_resumes_at, reason=None)
    return None


class ChangeResult(Output):
    """What became of it, and what the customer still has to do."""

    status: Literal["done", "scheduled", "requires_action"] = Field(
        description="`done`; `scheduled` for the end of the period; `requires_action`: it waits for a payment, which "
        "`client_secret` or `hosted_invoice_url` lets the customer make, 3D Secure included"
    )
    subscription: SubscriptionRead = Field(description="As it is now")
    invoice: str | None = Field(description="The invoice it led to")
    amount_due: DecimalNumber | None = Field(description="What that invoice asks for in major units")
    amount_due_minor: int | None = Field(description="The same in the currency's minor unit")
    client_secret: str | None = Field(description="For Stripe.js, to confirm the payment on a page of your own")
    hosted_invoice_url: str | None = Field(description="Or send the customer there")


async def show_outcome(session: AsyncSession, catalog: Catalog, outcome: Outcome) -> ChangeResult:
    """The result of something that may have led to an invoice."""
    invoice = outcome.invoice
    open_invoice = invoice is not None and invoice.status == "open"
    automatic = outcome.subscription.collection_method != "send_invoice"
    shown = await show_one(session, catalog, outcome.subscription)
    return ChangeResult(
        status="requires_action" if open_invoice and automatic else "scheduled" if shown.scheduled_change else "done",
        subscription=shown,
        invoice=None if invoice is None else invoice.stripe_id,
        amount_due=None if invoice is None else Money(invoice.amount_due, invoice.currency).decimal,
        amount_due_minor=None if invoice is None else invoice.amount_due,
        client_secret=outcome.client_secret,
        hosted_invoice_url=invoice.hosted_invoice_url if invoice is not None and open_invoice else None,
    )
