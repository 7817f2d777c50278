"""The caller's cards and other ways to pay: see them, add one, say which is charged, remove one."""

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field

from app import models
from app.api import problems
from app.api.deps import ActorDep, IdempotencyKeyDep, ProviderDep, ReadUserDep, RedisDep, SessionDep, WriteUserDep
from app.api.paging import MAX_ID_LENGTH
from app.api.schemas import Input, Output
from app.services import payment_methods
from app.services.customers import Buyer
from app.values import unix_now

router = APIRouter(prefix="/payment-methods", tags=["Payment methods"])

IdPath = Annotated[str, Path(max_length=MAX_ID_LENGTH, description="Stripe's id of the payment method")]

MISSING: dict[int | str, dict[str, Any]] = {
    404: {"description": "`payment_method_not_found`; `customer_not_found`: before the first purchase"}
}


class PaymentMethodRead(Output):
    """Never a card's number: what Stripe shows of it. The card's fields are null for other types."""

    id: str = Field(description="Stripe's id", examples=["pm_1QxYz"])
    type: str = Field(description="`card`, `sepa_debit`, …", examples=["card"])
    brand: str | None = Field(description="`visa`, `mastercard`, …", examples=["visa"])
    last4: str | None = Field(description="Last four digits", examples=["4242"])
    exp_month: int | None = Field(description="1 to 12")
    exp_year: int | None = Field(description="Four digits")
    expires_soon: bool = Field(description="Whether it expires within 30 days, or has expired")
    is_default: bool = Field(description="Whether the next invoice is charged to it")
    created: int = Field(description="Unix seconds")

    @classmethod
    def of(cls, row: models.PaymentMethod, *, is_default: bool) -> "PaymentMethodRead":
        return cls(
            id=row.stripe_id,
            type=row.type,
            brand=row.brand,
            last4=row.last4,
            exp_month=row.exp_month,
            exp_year=row.exp_year,
            expires_soon=payment_methods.expires_soon(row, now=unix_now()),
            is_default=is_default,
            created=row.created,
        )


class SetupIntentCreate(Input):
    """Takes nothing."""


class SetupIntentRead(Output):
    """What Stripe.js needs to ask for a card and save it, 3D Secure included."""

    id: str = Field(description="Stripe's id", examples=["seti_1QxYz"])
    client_secret: str | None = Field(
        description="For `stripe.confirmSetup` in the customer's browser, and nobody else"
    )
    status: str = Field(description="Stripe's word: `requires_payment_method`, `requires_action`, `succeeded`, …")
    next_action: str | None = Field(description="What the customer has to do, e.g. `redirect_to_url`")
    redirect_url: str | None = Field(description="Where, if it is a redirect")


class DefaultPaymentMethod(Input):
    """Takes nothing."""


@router.get("")
async def list_payment_methods(session: SessionDep, user: ReadUserDep) -> list[PaymentMethodRead]:
    """All of them, newest first."""
    found = await payment_methods.list_for_user(session, user_id=user.user_id)
    return [PaymentMethodRead.of(row, is_default=is_default) for row, is_default in found]


@router.post(
    "/setup-intent",
    responses={
        409: {"description": "`customer_deleted`: is being erased; `customer_in_progress` can be retried"},
        **problems.FROM_STRIPE,
    },
)
async def create_setup_intent(
    *,
    session: SessionDep,
    provider: ProviderDep,
    user: WriteUserDep,
    actor: ActorDep,
    idempotency_key: IdempotencyKeyDep,
    _body: SetupIntentCreate | None = None,
) -> SetupIntentRead:
    """Begin to add one: the browser finishes it with the client secret, and it appears in the list soon after.

    It is not charged before POST /payment-methods/{id}/default says so. The customer is made if there is none yet.
    """
    intent = await payment_methods.start_setup(
        session,
        provider,
        Buyer(user_id=user.user_id, email=user.email, name=user.name),
        idempotency_key=idempotency_key,
        actor=actor,
    )
    return SetupIntentRead.model_validate(intent)


@router.get("/{id}", responses=MISSING)
async def get_payment_method(session: SessionDep, user: ReadUserDep, id: IdPath) -> PaymentMethodRead:
    """One of them."""
    row, is_default = await payment_methods.get_for_user(session, user_id=user.user_id, id=id)
    return PaymentMethodRead.of(row, is_default=is_default)


@router.post("/{id}/default", responses={**MISSING, **problems.FROM_STRIPE})
async def make_payment_method_default(
    *,
    session: SessionDep,
    provider: ProviderDep,
    redis: RedisDep,
    user: WriteUserDep,
    actor: ActorDep,
    idempotency_key: IdempotencyKeyDep,
    id: IdPath,
    _body: DefaultPaymentMethod | None = None,
) -> PaymentMethodRead:
    """Charge everything to come to this one: the customer's invoices and every live subscription's.

    A payment that failed is tried with it when Stripe next retries; to pay at once, pay the open invoice.
    """
    row, is_default = await payment_methods.make_default(
        session, provider, redis, user_id=user.user_id, id=id, idempotency_key=idempotency_key, actor=actor
    )
    return PaymentMethodRead.of(row, is_default=is_default)


@router.delete(
    "/{id}",
    status_code=204,
    responses={
        **MISSING,
        409: {"description": "`last_payment_method` of a live subscription; `idempotency_key_in_use` can be retried"},
        **problems.FROM_STRIPE,
    },
)
async def detach_payment_method(
    *,
    session: SessionDep,
    provider: ProviderDep,
    redis: RedisDep,
    user: WriteUserDep,
    actor: ActorDep,
    idempotency_key: IdempotencyKeyDep,
    id: IdPath,
) -> None:
    """Remove it for good. Was it the one that is charged, the newest of the others takes its place."""
    await payment_methods.detach(
        session, provider, redis, user_id=user.user_id, id=id, idempotency_key=idempotency_key, actor=actor
    )
