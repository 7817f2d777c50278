"""Payments that a backend collects: made, confirmed, captured, canceled, read."""

from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import Field, model_validator

from app.api.caching import never_stored
from app.api.deps import (
    USER_MEANT,
    ProviderDep,
    ReadKeyDep,
    RequiredIdempotencyKeyDep,
    SessionDep,
    SettingsDep,
    WriteKeyDep,
)
from app.api.paging import MAX_ID_LENGTH, PageDep
from app.api.problems import FROM_STRIPE
from app.api.redirects import MAX_LENGTH as MAX_URL_LENGTH
from app.api.redirects import require_allowed
from app.api.schemas import DecimalNumber, Input, Metadata, Output
from app.errors import InvalidRequestError
from app.provider.payment_objects import PaymentIntent
from app.provider.payment_protocol import CancellationReason, CaptureMethod, FutureUsage
from app.services import payments
from app.services.payments import Listed
from app.settings import Settings
from app.values import Money

router = APIRouter(prefix="/payments", tags=["Payments"])

MAX_MINOR = 999_999_999_999  # Stripe's longest amount has twelve digits

IntentStatus = Literal[
    "requires_payment_method",
    "requires_confirmation",
    "requires_action",
    "processing",
    "requires_capture",
    "succeeded",
    "canceled",
]
IdPath = Annotated[str, Path(max_length=MAX_ID_LENGTH, description="Stripe's id of the payment intent")]
PayerQuery = Annotated[
    str | None,
    Query(min_length=1, max_length=MAX_ID_LENGTH, description="Whose payment it is; another user's is not found"),
]

_MISSING: dict[int | str, Any] = {
    404: {"description": "`payment_intent_not_found`; `customer_not_found`: the user has none at Stripe yet"}
}
_DECLINED: dict[int | str, Any] = {
    402: {"description": "`payment_failed`: the bank or Stripe refused; `decline_code` says why"}
}
_STATE: dict[int | str, Any] = {
    409: {"description": "The payment's present state does not allow it; or `idempotency_key_in_use`"}
}
CHANGED = {**FROM_STRIPE, **_MISSING, **_STATE}


class NextAction(Output):
    """What the customer has to do before the payment goes on."""

    type: str = Field(description="`redirect_to_url`: send the browser to `url`; else Stripe.js knows what to do")
    url: str | None = Field(description="The bank's page; it leads back to the `return_url`")


class PaymentIntentRead(Output):
    """`…_minor` fields are in the currency's minor unit, times in unix seconds."""

    id: str = Field(description="Stripe's id", examples=["pi_3QxYz"])
    status: str = Field(description="e.g. `requires_action`, `requires_capture`, `succeeded`, `canceled`")
    currency: str = Field(description="ISO 4217, lower case")
    amount: DecimalNumber = Field(description="What is to be paid, in major units")
    amount_minor: int = Field(description="What is to be paid")
    amount_capturable_minor: int = Field(description="What is held and can be captured")
    amount_received_minor: int = Field(description="What has been collected")
    customer: str | None = Field(description="Stripe's id of the customer")
    capture_method: str = Field(description="`manual` holds the money first")
    payment_method: str | None = Field(description="What it is paid with")
    latest_charge: str | None = Field(description="The last try")
    description: str | None = Field(description="The caller's own words")
    failure_code: str | None = Field(description="Why the last try failed")
    decline_code: str | None = Field(description="Why the bank refused the last try")
    cancellation_reason: str | None = Field(description="Why it was given up")
    client_secret: str | None = Field(description="For Stripe.js, which goes on with it; null once it has ended")
    next_action: NextAction | None = Field(description="What the customer has to do next, if anything")
    metadata: dict[str, str] = Field(description="The caller's own notes")
    created: int = Field(description="When it was made")

    @classmethod
    def of(cls, found: PaymentIntent | Listed) -> Self:
        """From what Stripe shows this moment, or from our own tables: these keep no secrets."""
        row = found if isinstance(found, PaymentIntent) else found.row
        live = found if isinstance(found, PaymentIntent) and found.status not in payments.ENDED else None
        return cls(
            id=found.id,
            status=row.status,
            currency=row.currency,
            amount=Money(row.amount, row.currency).decimal,
            amount_minor=row.amount,
            amount_capturable_minor=row.amount_capturable,
            amount_received_minor=row.amount_received,
            customer=found.customer,
            capture_method="manual" if row.capture_method == "manual" else "automatic",
            payment_method=row.payment_method,
            latest_charge=row.latest_charge,
            description=row.description,
            failure_code=row.failure_code,
            decline_code=row.decline_code,
            cancellation_reason=row.cancellation_reason,
            client_secret=live and live.client_secret,
            next_action=live and live.next_action and NextAction.model_validate(live.next_action),
            metadata=dict(found.metadata),
            created=row.created,
        )


class CreatePaymentIntent(Input):
    """A payment; with `confirm` it is collected at once."""

    amount_minor: int = Field(ge=1, le=MAX_MINOR, description="In the currency's minor unit", examples=[6500])
    currency: str = Field(pattern="^[A-Za-z]{3}$", description="ISO 4217", examples=["usd"])
    capture_method: CaptureMethod = Field(default="automatic", description="`manual` only holds the money")
    payment_method: str | None = Field(default=None, min_length=1, max_length=MAX_ID_LENGTH, description="Stripe's id")
    confirm: bool = Field(default=False, description="Collect it now; needs `payment_method`")
    off_session: bool = Field(default=False, description="The customer is not there to authenticate; with `confirm`")
    return_url: str | None = Field(
        default=None,
        max_length=MAX_URL_LENGTH,
        description="Where their bank sends the customer back to: needed with `confirm`, unless `off_session`",
    )
    setup_future_usage: FutureUsage | None = Field(default=None, description="Keep the card for later payments")
    receipt_email: str | None = Field(
        default=None, min_length=3, max_length=512, description="Whom Stripe mails a receipt"
    )
    description: str | None = Field(default=None, min_length=1, max_length=1000, description="Shown to the customer")
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.confirm and self.payment_method is None:
            raise ValueError("`confirm` needs a `payment_method`")
        if not self.confirm and (self.off_session or self.return_url is not None):
            raise ValueError("`off_session` and `return_url` mean something only with `confirm`")
        return self


class ConfirmPaymentIntent(Input):
    """How to collect it."""

    payment_method: str | None = Field(
        default=None, min_length=1, max_length=MAX_ID_LENGTH, description="Needed unless the payment has one"
    )
    off_session: bool = Field(default=False, description="The customer is not there to authenticate")
    return_url: str | None = Field(
        default=None,
        max_length=MAX_URL_LENGTH,
        description="Where their bank sends the customer back to: needed unless `off_session`",
    )


class CapturePaymentIntent(Input):
    """How much of what is held."""

    amount_minor: int | None = Field(
        default=None, ge=1, le=MAX_MINOR, description="In the currency's minor unit; all of it by default"
    )


class CancelPaymentIntent(Input):
    """Why."""

    reason: CancellationReason | None = Field(default=None, description="For the records")


async def get_payer(request: Request, user_id: PayerQuery = None) -> str | None:
    if user_id is not None:
        request.scope[USER_MEANT] = user_id
    return user_id


PayerDep = Annotated[str | None, Depends(get_payer)]


@router.post(
    "/intents",
    status_code=201,
    responses={
        **FROM_STRIPE,
        **_DECLINED,
        **_MISSING,
        409: {"description": "`customer_deleted`: is being erased; `idempotency_key_in_use` can be retried"},
    },
)
async def create_payment_intent(
    *,
    session: SessionDep,
    provider: ProviderDep,
    settings: SettingsDep,
    key: WriteKeyDep,
    payer: PayerDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    body: CreatePaymentIntent,
) -> PaymentIntentRead:
    """Begin a payment, and with `confirm` collect it at once. Needs the scope `billing:write`.

    A refusal is a 402 with `decline_code`; the payment stays in the list and can be confirmed again.
    """
    if body.confirm:
        _check_way_back(settings, body.return_url, off_session=body.off_session)
    made = await payments.create(
        session,
        provider,
        user_id=payer,
        amount=body.amount_minor,
        currency=body.currency.lower(),
        capture_method=body.capture_method,
        payment_method=body.payment_method,
        confirm=body.confirm,
        off_session=body.off_session,
        return_url=body.return_url,
        setup_future_usage=body.setup_future_usage,
        receipt_email=body.receipt_email,
        description=body.description,
        metadata=body.metadata,
        idempotency_key=idempotency_key,
        actor=key.actor,
    )
    return PaymentIntentRead.of(made)


@router.get("/intents", responses={404: {"description": "`payment_intent_not_found`: as `starting_after`"}})
async def list_payment_intents(
    *,
    session: SessionDep,
    _key: ReadKeyDep,
    payer: PayerDep,
    page: PageDep,
    status: Annotated[IntentStatus | None, Query(description="Only these")] = None,
) -> list[PaymentIntentRead]:
    """Newest first. Needs the scope `billing:read`."""
    rows = await payments.list_intents(
        session, user_id=payer, status=status, limit=page.limit, starting_after=page.starting_after
    )
    return [PaymentIntentRead.of(found) for found in page.cut(rows, lambda found: found.id)]


@router.get("/intents/{payment_intent_id}", responses={**FROM_STRIPE, **_MISSING}, dependencies=[Depends(never_stored)])
async def get_payment_intent(
    session: SessionDep, provider: ProviderDep, key: ReadKeyDep, payer: PayerDep, payment_intent_id: IdPath
) -> PaymentIntentRead:
    """The payment as it is this moment, whether or not its webhook has come. Needs the scope `billing:read`."""
    found = await payments.get(session, provider, id=payment_intent_id, user_id=payer, actor=key.actor)
    return PaymentIntentRead.of(found)


@router.post("/intents/{payment_intent_id}/confirm", responses={**CHANGED, **_DECLINED})
async def confirm_payment_intent(
    *,
    session: SessionDep,
    provider: ProviderDep,
    settings: SettingsDep,
    key: WriteKeyDep,
    payer: PayerDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    payment_intent_id: IdPath,
    body: ConfirmPaymentIntent,
) -> PaymentIntentRead:
    """Collect it. With `requires_action`, send the customer to `next_action`. Needs the scope `billing:write`."""
    _check_way_back(settings, body.return_url, off_session=body.off_session)
    changed = await payments.confirm(
        session,
        provider,
        id=payment_intent_id,
        user_id=payer,
        payment_method=body.payment_method,
        off_session=body.off_session,
        return_url=body.return_url,
        idempotency_key=idempotency_key,
        actor=key.actor,
    )
    return PaymentIntentRead.of(changed)


@router.post("/intents/{payment_intent_id}/capture", responses=CHANGED)
async def capture_payment_intent(
    *,
    session: SessionDep,
    provider: ProviderDep,
    key: WriteKeyDep,
    payer: PayerDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    payment_intent_id: IdPath,
    body: CapturePaymentIntent | None = None,
) -> PaymentIntentRead:
    """Take what is held, or a part of it; the rest is released. Needs the scope `billing:write`."""
    changed = await payments.capture(
        session,
        provider,
        id=payment_intent_id,
        user_id=payer,
        amount=None if body is None else body.amount_minor,
        idempotency_key=idempotency_key,
        actor=key.actor,
    )
    return PaymentIntentRead.of(changed)


@router.post("/intents/{payment_intent_id}/cancel", responses=CHANGED)
async def cancel_payment_intent(
    *,
    session: SessionDep,
    provider: ProviderDep,
    key: WriteKeyDep,
    payer: PayerDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    payment_intent_id: IdPath,
    body: CancelPaymentIntent | None = None,
) -> PaymentIntentRead:
    """Give it up, and release what is held. Needs the scope `billing:write`."""
    changed = await payments.cancel(
        session,
        provider,
        id=payment_intent_id,
        user_id=payer,
        reason=None if body is None else body.reason,
        idempotency_key=idempotency_key,
        actor=key.actor,
    )
    return PaymentIntentRead.of(changed)


def _check_way_back(settings: Settings, return_url: str | None, *, off_session: bool) -> None:
    """Hold the customer's way back from their bank to our own origins. Raises InvalidRequestError."""
    if return_url is not None:
        require_allowed(settings, return_url=return_url)
    elif not off_session:
        raise InvalidRequestError(
            "The customer's bank may want to see them: say where it sends them back to, or that they are not there "
            "(`off_session`).",
            code="missing",
            param="return_url",
        )
