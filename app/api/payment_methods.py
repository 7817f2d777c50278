"""The caller's cards and other ways to pay."""

from fastapi import APIRouter
from pydantic import Field

from app.api.deps import ReadUserDep, SessionDep
from app.api.schemas import Output
from app.services import payment_methods

router = APIRouter(prefix="/payment-methods", tags=["Payment methods"])


class PaymentMethodRead(Output):
    """Never a card's number: what Stripe shows of it. The card's fields are null for other types."""

    id: str = Field(description="Stripe's id", examples=["pm_1QxYz"])
    type: str = Field(description="`card`, `sepa_debit`, …", examples=["card"])
    brand: str | None = Field(description="`visa`, `mastercard`, …", examples=["visa"])
    last4: str | None = Field(description="Last four digits", examples=["4242"])
    exp_month: int | None = Field(description="1 to 12")
    exp_year: int | None = Field(description="Four digits")
    is_default: bool = Field(description="Whether the next invoice is charged to it")
    created: int = Field(description="Unix seconds")


@router.get("")
async def list_payment_methods(session: SessionDep, user: ReadUserDep) -> list[PaymentMethodRead]:
    """All of them, newest first."""
    return [
        PaymentMethodRead(
            id=row.stripe_id,
            type=row.type,
            brand=row.brand,
            last4=row.last4,
            exp_month=row.exp_month,
            exp_year=row.exp_year,
            is_default=is_default,
            created=row.created,
        )
        for row, is_default in await payment_methods.list_for_user(session, user_id=user.user_id)
    ]
