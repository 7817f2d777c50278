"""Giving payments back, and what was given back."""

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Path, Query
from pydantic import Field

from app import models
from app.api.deps import OperatorDep, ProviderDep, RequiredIdempotencyKeyDep, SessionDep
from app.api.paging import MAX_ID_LENGTH, PageDep
from app.api.payments import MAX_MINOR
from app.api.problems import FROM_STRIPE
from app.api.schemas import DecimalNumber, Input, Output
from app.provider.payment_objects import Refund
from app.provider.payment_protocol import RefundReason
from app.services import payments
from app.values import Money

router = APIRouter(tags=["Payments"])

RefundStatus = Literal["pending", "requires_action", "succeeded", "failed", "canceled"]


class RefundRead(Output):
    """`…_minor` fields are in the currency's minor unit, times in unix seconds."""

    id: str = Field(description="Stripe's id", examples=["re_3QxYz"])
    status: str | None = Field(description="`pending`, `requires_action`, `succeeded`, `failed` or `canceled`")
    currency: str = Field(description="ISO 4217, lower case")
    amount: DecimalNumber = Field(description="In major units")
    amount_minor: int = Field(description="What goes back")
    charge: str | None = Field(description="What is given back")
    payment_intent: str | None = Field(description="The payment it belongs to")
    reason: str | None = Field(description="Why")
    failure_reason: str | None = Field(description="Why the bank sent it back")
    created: int = Field(description="When it was made")

    @classmethod
    def of(cls, row: models.Refund | Refund) -> Self:
        return cls(
            id=row.id if isinstance(row, Refund) else row.stripe_id,
            status=row.status,
            currency=row.currency,
            amount=Money(row.amount, row.currency).decimal,
            amount_minor=row.amount,
            charge=row.charge,
            payment_intent=row.payment_intent,
            reason=row.reason,
            failure_reason=row.failure_reason,
            created=row.created,
        )


class CreateRefund(Input):
    """How much, and why."""

    amount_minor: int | None = Field(
        default=None, ge=1, le=MAX_MINOR, description="In the currency's minor unit; all that is left by default"
    )
    reason: RefundReason | None = Field(default=None, description="`fraudulent` also blocks the card at Stripe")


@router.post(
    "/payments/{payment_id}/refunds",
    status_code=201,
    responses={
        **FROM_STRIPE,
        404: {"description": "`payment_not_found`"},
        409: {"description": "Nothing is left to refund, or the payment is disputed; or `idempotency_key_in_use`"},
    },
)
async def create_refund(
    *,
    session: SessionDep,
    provider: ProviderDep,
    operator: OperatorDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    payment_id: Annotated[
        str, Path(max_length=MAX_ID_LENGTH, description="Stripe's id of the payment intent or of the charge")
    ],
    body: CreateRefund | None = None,
) -> RefundRead:
    """Give a payment back, in full or in part. Needs the scope `operator`."""
    wish = body or CreateRefund()
    made = await payments.refund(
        session,
        provider,
        payment_id=payment_id,
        amount=wish.amount_minor,
        reason=wish.reason,
        idempotency_key=idempotency_key,
        actor=operator.actor,
    )
    return RefundRead.of(made)


@router.get("/refunds", responses={404: {"description": "`refund_not_found`: as `starting_after`"}})
async def list_refunds(
    *,
    session: SessionDep,
    _operator: OperatorDep,
    page: PageDep,
    payment: Annotated[
        str | None, Query(max_length=MAX_ID_LENGTH, description="Only this payment intent's or charge's")
    ] = None,
    status: Annotated[RefundStatus | None, Query(description="Only these")] = None,
) -> list[RefundRead]:
    """Newest first. Needs the scope `operator`."""
    rows = await payments.list_refunds(
        session, payment_id=payment, status=status, limit=page.limit, starting_after=page.starting_after
    )
    return [RefundRead.of(row) for row in page.cut(rows, lambda row: row.stripe_id)]


@router.get("/refunds/{refund_id}", responses={404: {"description": "`refund_not_found`"}})
async def get_refund(
    session: SessionDep,
    _operator: OperatorDep,
    refund_id: Annotated[str, Path(max_length=MAX_ID_LENGTH, description="Stripe's id of the refund")],
) -> RefundRead:
    """One of them. Needs the scope `operator`."""
    return RefundRead.of(await payments.get_refund(session, refund_id))
