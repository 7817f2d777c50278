"""What came in lately, and what failed: a dashboard's list."""

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Query
from pydantic import Field

from app.api.deps import OperatorDep, SessionDep
from app.api.paging import PageDep
from app.api.schemas import DecimalNumber, Output
from app.services import payments
from app.services.payments import Recent
from app.values import Money

router = APIRouter(prefix="/payments", tags=["Payments"])

ChargeStatus = Literal["succeeded", "pending", "failed"]


class RecentPayment(Output):
    """One try to collect a payment. `…_minor` fields are in the currency's minor unit, times in unix seconds."""

    id: str = Field(description="Stripe's id of the charge", examples=["ch_3QxYz"])
    payment_intent: str | None = Field(description="The payment it was a try for")
    status: str = Field(description="`succeeded`, `pending` or `failed`")
    currency: str = Field(description="ISO 4217, lower case")
    amount: DecimalNumber = Field(description="In major units")
    amount_minor: int = Field(description="What was to be collected")
    amount_refunded_minor: int = Field(description="What went back")
    captured: bool = Field(description="False while the money is only held")
    refunded: bool = Field(description="Whether all of it went back")
    disputed: bool = Field(description="Whether the customer's bank questions it, or did")
    customer: str | None = Field(description="Stripe's id of the customer")
    user_id: str | None = Field(description="The host product's id of them")
    customer_email: str | None = Field(description="Their address")
    customer_name: str | None = Field(description="Their name")
    description: str | None = Field(description="What it was for")
    failure_code: str | None = Field(description="Why it failed")
    decline_code: str | None = Field(description="Why the bank refused")
    receipt_url: str | None = Field(description="Stripe's receipt")
    created: int = Field(description="When it was made")

    @classmethod
    def of(cls, found: Recent) -> Self:
        row, customer = found.charge, found.customer
        return cls(
            id=row.stripe_id,
            payment_intent=row.payment_intent,
            status=row.status,
            currency=row.currency,
            amount=Money(row.amount, row.currency).decimal,
            amount_minor=row.amount,
            amount_refunded_minor=row.amount_refunded,
            captured=row.captured,
            refunded=row.refunded,
            disputed=found.disputed,
            customer=customer and customer.stripe_id,
            user_id=customer and customer.user_id,
            customer_email=customer and customer.email,
            customer_name=customer and customer.name,
            description=row.description,
            failure_code=row.failure_code,
            decline_code=row.decline_code,
            receipt_url=row.receipt_url,
            created=row.created,
        )


@router.get("/recent", responses={404: {"description": "`charge_not_found`: as `starting_after`"}})
async def list_recent_payments(
    *,
    session: SessionDep,
    _operator: OperatorDep,
    page: PageDep,
    status: Annotated[ChargeStatus | None, Query(description="Only these")] = None,
) -> list[RecentPayment]:
    """What came in lately, and what failed; newest first, from our own tables. Needs the scope `operator`."""
    rows = await payments.recent(session, status=status, limit=page.limit, starting_after=page.starting_after)
    return [RecentPayment.of(found) for found in page.cut(rows, lambda found: found.charge.stripe_id)]
