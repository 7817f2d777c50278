"""Hosted Checkout: where to send a buyer, and how it went when they come back."""

from typing import Annotated, Self

from fastapi import APIRouter, Depends, Path
from pydantic import Field, model_validator

from app.api import problems, redirects
from app.api.caching import never_stored
from app.api.deps import ActorDep, CatalogDep, ProviderDep, ReadUserDep, RedisDep, SessionDep, SettingsDep, WriteUserDep
from app.api.paging import MAX_ID_LENGTH
from app.api.schemas import Input, Output
from app.api.subscriptions_shapes import SubscriptionRead, show_one
from app.errors import UnavailableError
from app.services import checkout
from app.services.catalog import Interval
from app.services.customers import Buyer
from app.services.subscriptions import reading

router = APIRouter(prefix="/checkout/session", tags=["Checkout"])


class CheckoutSessionCreate(Input):
    """Exactly one of `plan` and `price_id` says what is bought."""

    plan: str | None = Field(default=None, max_length=40, description="A key of GET /plans", examples=["pro"])
    price_id: str | None = Field(default=None, max_length=MAX_ID_LENGTH, description="Or the price it stands for")
    interval: Interval | None = Field(
        default=None, description="By which of the plan's `prices` it is bought; by the first unless said"
    )
    success_url: str = Field(
        description="Where the buyer lands after paying; Stripe puts the session's id for `{CHECKOUT_SESSION_ID}`",
        examples=["https://app.example.com/billing?session_id={CHECKOUT_SESSION_ID}"],
    )
    cancel_url: str = Field(
        description="Where the buyer lands without having paid", examples=["https://app.example.com/pricing"]
    )
    quantity: int = Field(default=1, ge=1, le=999, description="How many units, e.g. seats")
    promotion_code: str | None = Field(
        default=None, min_length=1, max_length=100, description="A code to apply; without one the page offers a field"
    )

    @model_validator(mode="after")
    def _names_one_thing(self) -> Self:
        if (self.plan is None) == (self.price_id is None):
            raise ValueError("Send exactly one of plan and price_id")
        if self.price_id is not None and self.interval is not None:
            raise ValueError("A price_id says its interval itself")
        return self


class CheckoutSessionCreated(Output):
    session_id: str = Field(description="Stripe's id", examples=["cs_test_a1b2c3"])
    url: str = Field(description="Send the browser there")


class CheckoutSessionRead(Output):
    """A session as Stripe shows it this moment."""

    session_id: str = Field(description="Stripe's id")
    status: str | None = Field(description="`open`, `complete` or `expired`")
    payment_status: str = Field(description="`paid`, `unpaid` (a slow method is under way) or `no_payment_required`")
    mode: str = Field(description="`subscription`, `payment` or `setup`")
    url: str | None = Field(description="The page, while the session is open")
    expires_at: int = Field(description="Unix seconds")
    subscription: SubscriptionRead | None = Field(description="The buyer's subscription now; null until bought")


@router.post(
    "",
    responses={
        404: {"description": "`plan_not_found` or `price_not_found`"},
        409: {
            "description": "`already_subscribed`, `customer_deleted`; or `checkout_in_progress`, which can be retried"
        },
        **problems.FROM_STRIPE,
    },
)
async def create_checkout_session(
    *,
    session: SessionDep,
    provider: ProviderDep,
    redis: RedisDep,
    catalog: CatalogDep,
    settings: SettingsDep,
    user: WriteUserDep,
    actor: ActorDep,
    body: CheckoutSessionCreate,
) -> CheckoutSessionCreated:
    """A page to buy a plan on. Asking again for the same thing gives the same page while it is open.

    409 `already_subscribed` for a customer with a live subscription.
    """
    redirects.require_allowed(settings, success_url=body.success_url, cancel_url=body.cancel_url)
    row = await checkout.create_session(
        session,
        provider,
        redis,
        catalog,
        user=Buyer(user_id=user.user_id, email=user.email, name=user.name),
        plan=body.plan,
        price_id=body.price_id,
        interval=body.interval,
        quantity=body.quantity,
        success_url=body.success_url,
        cancel_url=body.cancel_url,
        promotion_code=body.promotion_code,
        actor=actor,
    )
    if row.url is None:
        raise UnavailableError("The checkout was closed while it was being opened; try again.", retry_after=1)
    return CheckoutSessionCreated(session_id=row.stripe_id, url=row.url)


@router.get(
    "/{session_id}",
    responses={
        404: {"description": "`checkout_session_not_found`"},
        **problems.FROM_STRIPE,
    },
    dependencies=[Depends(never_stored)],
)
async def get_checkout_session(
    *,
    session: SessionDep,
    provider: ProviderDep,
    catalog: CatalogDep,
    user: ReadUserDep,
    actor: ActorDep,
    session_id: Annotated[str, Path(max_length=MAX_ID_LENGTH, description="The id that success_url was given")],
) -> CheckoutSessionRead:
    """How a purchase stands, right at once: it asks Stripe and never waits for a webhook."""
    row = await checkout.get_session(session, provider, user_id=user.user_id, session_id=session_id, actor=actor)
    bought = await reading.current(session, user.user_id) if row.subscription else None
    return CheckoutSessionRead(
        session_id=row.stripe_id,
        status=row.status,
        payment_status=row.payment_status,
        mode=row.mode,
        url=row.url,
        expires_at=row.expires_at,
        subscription=None if bought is None else await show_one(session, catalog, bought),
    )
