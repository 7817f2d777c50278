"""Buying packs of credits, how it went, and giving their money back."""

from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import Field, model_validator

from app import models
from app.api.caching import never_stored
from app.api.credit_schemas import Identified, identify
from app.api.deps import (
    DERIVED_KEY,
    USER_MEANT,
    CallerDep,
    CatalogDep,
    OperatorDep,
    ProviderDep,
    RedisDep,
    RequiredIdempotencyKeyDep,
    SessionDep,
    SettingsDep,
    require_scope,
    user_with,
)
from app.api.paging import MAX_ID_LENGTH, PageDep
from app.api.payments import MAX_MINOR
from app.api.problems import FROM_STRIPE
from app.api.redirects import MAX_LENGTH as MAX_URL_LENGTH
from app.api.redirects import require_allowed
from app.api.refunds import RefundRead
from app.api.schemas import Input, Output
from app.provider.payment_protocol import RefundReason
from app.services.identity import User
from app.services.purchases import creating, reading, refunding
from app.services.purchases.creating import Begun, Wish

router = APIRouter(prefix="/purchases", tags=["Credits"])

ReaderDep = Annotated[User, Depends(user_with("credits:read"))]
IdPath = Annotated[
    str,
    Path(
        max_length=MAX_ID_LENGTH,
        description="The purchase's id, or Stripe's of its payment intent (`pi_…`) or its Checkout session (`cs_…`)",
    ),
]
Url = Annotated[str | None, Field(max_length=MAX_URL_LENGTH)]

_MISSING: dict[int | str, Any] = {404: {"description": "`purchase_not_found`; another user's is not found either"}}


class PurchaseCreate(Identified):
    """A pack, to be paid with a payment intent; or, with a `success_url`, on Stripe's page."""

    pack: str | None = Field(
        default=None, max_length=40, description="A key of the packs in `GET /plans`; the first unless said"
    )
    success_url: Url = Field(
        default=None,
        description="Where the buyer lands after paying on Stripe's page; it puts the session's id for "
        "`{CHECKOUT_SESSION_ID}`",
        examples=["https://app.example.com/credits?session_id={CHECKOUT_SESSION_ID}"],
    )
    cancel_url: Url = Field(default=None, description="Where the buyer lands without having paid")
    return_url: Url = Field(
        default=None,
        description="Where you will have Stripe.js send the buyer back to; it is only held to the allowed origins",
    )
    save_payment_method: bool = Field(
        default=False, description="Keep the card, so that it can be charged later: an automatic top-up needs one"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.cancel_url is not None and self.success_url is None:
            raise ValueError("`cancel_url` means something only with `success_url`")
        return self


class PurchaseRead(Output):
    """A pack as it was when it was bought, and what became of it. Times are unix seconds."""

    id: UUID = Field(description="Its id")
    account_id: UUID = Field(description="Whose account its uses are for")
    payment_id: str | None = Field(
        description="Stripe's id of the payment intent; on its page there is none before the buyer pays",
        examples=["pi_3QxYz"],
    )
    checkout_session: str | None = Field(description="Stripe's id of the Checkout session, where it is paid on a page")
    status: str = Field(
        description="`pending`, `processing` (a slow method), `succeeded`; `failed`, which can be tried again; "
        "`canceled`; `mismatched`: something else was paid than it costs, and nothing is granted"
    )
    failure_code: str | None = Field(description="Why the latest try to pay failed, in Stripe's words")
    pack: str = Field(description="The pack's key", examples=["starter"])
    uses_purchased: int = Field(description="How many uses it has", examples=[20])
    uses_granted: int = Field(description="How many were granted: all, once it is paid")
    uses_clawed_back: int = Field(description="How many were taken back, for refunds and disputes as they stand")
    expires_days: int | None = Field(description="Days after the payment when what is left is lost; null: never")
    amount_minor: int = Field(description="What it costs, in the currency's minor unit", examples=[500])
    amount_refunded_minor: int = Field(description="What was given back")
    amount_disputed_minor: int = Field(description="What the buyer's bank holds")
    currency: str = Field(description="ISO 4217, lower case", examples=["usd"])
    granted_at: int | None = Field(description="When it was paid and granted")
    created_at: int = Field(description="When it was made")

    @classmethod
    def of(cls, row: models.CreditPurchase, **more: Any) -> Self:
        return cls(
            id=row.id,
            account_id=row.account_id,
            payment_id=row.payment_intent,
            checkout_session=row.checkout_session,
            status=row.status,
            failure_code=row.failure_code,
            pack=row.pack,
            uses_purchased=row.uses,
            uses_granted=0 if row.granted_at is None else row.uses,
            uses_clawed_back=row.clawed,
            expires_days=row.expires_days,
            amount_minor=row.amount,
            amount_refunded_minor=row.amount_refunded,
            amount_disputed_minor=row.amount_disputed,
            currency=row.currency,
            granted_at=row.granted_at,
            created_at=row.created,
            **more,
        )


class PurchaseBegun(PurchaseRead):
    """A purchase, and what the buyer pays it with."""

    client_secret: str | None = Field(description="For the Payment Element; null where it is paid on Stripe's page")
    url: str | None = Field(description="Stripe's page: send the browser there")
    publishable_key: str | None = Field(description="For Stripe.js: STRIPE_PUBLISHABLE_KEY as it is configured")

    @classmethod
    def begun(cls, begun: Begun, publishable_key: str | None) -> Self:
        return cls.of(begun.row, client_secret=begun.client_secret, url=begun.url, publishable_key=publishable_key)


class PurchaseRefundCreate(Input):
    """How much, and why."""

    amount_minor: int | None = Field(
        default=None, ge=1, le=MAX_MINOR, description="In the currency's minor unit; all that is left by default"
    )
    reason: RefundReason | None = Field(default=None, description="`fraudulent` also blocks the card at Stripe")


class PurchaseRefunded(PurchaseRead):
    """The purchase after its refund."""

    refund: RefundRead = Field(description="What goes back to the buyer")


@router.post(
    "",
    status_code=201,
    responses={
        **FROM_STRIPE,
        200: {"model": PurchaseBegun, "description": "The purchase of the same pack that was open already"},
        403: {"description": "`account_suspended`: what it buys could not be spent; or the key lacks `credits:write`"},
        404: {"description": "`pack_not_found`, `user_not_found`, `customer_not_found`"},
        409: {
            "description": "`pack_not_applied`: its price is not at Stripe yet; `customer_deleted`; "
            "`customer_in_progress` and `idempotency_key_in_use` can be retried"
        },
    },
    dependencies=[Depends(never_stored)],
)
async def create_purchase(
    *,
    session: SessionDep,
    provider: ProviderDep,
    redis: RedisDep,
    catalog: CatalogDep,
    settings: SettingsDep,
    caller: CallerDep,
    request: Request,
    response: Response,
    body: PurchaseCreate,
) -> PurchaseBegun:
    """Buy a pack: its uses are granted when Stripe says that it is paid. Needs the scope `credits:write`.

    Asking again for the same pack gives the same purchase while it is open; with an Idempotency-Key each key is one.
    """
    urls = {name: url for name in ("success_url", "cancel_url", "return_url") if (url := getattr(body, name))}
    require_allowed(settings, **urls)
    identity = await identify(session, caller, body, "credits:write")
    request.scope[USER_MEANT] = identity.user_id
    begun = await creating.create(
        session,
        provider,
        redis,
        catalog,
        Wish(
            identity=identity,
            name=caller.name if isinstance(caller, User) else None,
            pack=body.pack,
            success_url=body.success_url,
            cancel_url=body.cancel_url,
            save_payment_method=body.save_payment_method,
        ),
        idempotency_key=request.scope.get(DERIVED_KEY),
        actor=caller.actor,
    )
    if not begun.new:
        response.status_code = 200
    return PurchaseBegun.begun(begun, settings.stripe_publishable_key)


@router.get("", responses={404: {"description": "`purchase_not_found`: as `starting_after`"}})
async def list_purchases(session: SessionDep, user: ReaderDep, page: PageDep) -> list[PurchaseRead]:
    """Newest first, as we know them. Needs the scope `credits:read`."""
    rows = await reading.list_purchases(
        session, user_id=user.user_id, limit=page.limit, starting_after=page.starting_after
    )
    return [PurchaseRead.of(row) for row in page.cut(rows, lambda row: str(row.id))]


@router.get("/{purchase_id}", responses={**FROM_STRIPE, **_MISSING})
async def get_purchase(
    session: SessionDep, provider: ProviderDep, caller: CallerDep, purchase_id: IdPath
) -> PurchaseRead:
    """How a purchase stands, right at once: until it has ended Stripe is asked, and no webhook waited for.

    Needs the scope `credits:read` or `credits:write`.
    """
    user_id = caller.user_id if isinstance(caller, User) else None
    if user_id is None:
        require_scope(caller, "credits:read", "credits:write")
    row = await reading.get(session, provider, id=purchase_id, user_id=user_id, actor=caller.actor)
    return PurchaseRead.of(row)


@router.post(
    "/{purchase_id}/refund",
    status_code=201,
    responses={
        **FROM_STRIPE,
        **_MISSING,
        409: {
            "description": "`purchase_not_paid`; nothing is left to refund, or the payment is disputed; or "
            "`idempotency_key_in_use`"
        },
    },
)
async def refund_purchase(
    *,
    session: SessionDep,
    provider: ProviderDep,
    operator: OperatorDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    purchase_id: IdPath,
    body: PurchaseRefundCreate | None = None,
) -> PurchaseRefunded:
    """Give its money back, in full or in part; as large a part of its uses is taken back. Needs the scope `operator`.

    Uses that were spent already are then owed: nothing can be spent until others have settled them.
    """
    wish = body or PurchaseRefundCreate()
    row, refund = await refunding.refund(
        session,
        provider,
        id=purchase_id,
        amount=wish.amount_minor,
        reason=wish.reason,
        idempotency_key=idempotency_key,
        actor=operator.actor,
    )
    return PurchaseRefunded.of(row, refund=RefundRead.of(refund))
