"""The caller's subscriptions: see them, cancel and pause them, and take that back."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from app.api.deps import (
    ActorDep,
    CallerDep,
    CatalogDep,
    IdempotencyKeyDep,
    ProviderDep,
    ReadUserDep,
    RequiredIdempotencyKeyDep,
    SessionDep,
    UserIdQuery,
    WriteUserDep,
    user_meant,
)
from app.api.paging import MAX_ID_LENGTH, PageDep
from app.api.schemas import Input, Output
from app.api.subscriptions_shapes import (
    CHANGED,
    SUBSCRIPTION_ID,
    ChangeResult,
    SubscriptionRead,
    show,
    show_one,
    show_outcome,
)
from app.errors import PermissionDeniedError
from app.models import Subscription
from app.provider.subscription_protocol import Feedback
from app.services import access
from app.services.identity import Caller, User
from app.services.subscriptions import canceling, pausing, reading
from app.values import unix_now

router = APIRouter(tags=["Subscription"])

MAX_SECOND = 4_102_444_800  # the year 2100, beyond which Stripe takes no date either

SubscriptionIdQuery = Annotated[str | None, Query(**SUBSCRIPTION_ID)]
SubscriptionIdPath = Annotated[str, Path(max_length=MAX_ID_LENGTH, description="Stripe's id", examples=["sub_1QxYz"])]


class SubscriptionStatus(Output):
    """What the product needs to know at a glance."""

    tier: str = Field(description="The plan in force after the access policy, e.g. `free` once payment failed for good")
    status: str = Field(description="The subscription's status, or `none`")
    current_period_end: int | None = Field(description="Unix seconds")
    cancel_at_period_end: bool = Field(description="Whether the subscription ends with the period")


class SubscriptionChoice(Input):
    """Nothing but which subscription is meant."""

    subscription_id: str | None = Field(default=None, **SUBSCRIPTION_ID)


class CancelWish(Input):
    at_period_end: bool = Field(default=True, description="False ends it at once, without refund")
    reason: str | None = Field(default=None, min_length=1, max_length=500, description="The customer's own words")
    feedback: Feedback | None = Field(default=None, description="Why, in Stripe's words")


class CancelSubscription(CancelWish, SubscriptionChoice):
    """How, and why."""


class Canceled(Output):
    message: str = Field(description="For the customer, in English")
    cancel_at: int | None = Field(description="When it ends or ended, unix seconds")

    @classmethod
    def of(cls, row: Subscription) -> "Canceled":
        if row.ended_at is not None:
            return cls(message="The subscription has ended.", cancel_at=row.ended_at)
        end = row.cancel_at or row.current_period_end
        day = "with the current period" if end is None else f"on {datetime.fromtimestamp(end, UTC):%Y-%m-%d}"
        return cls(message=f"The subscription ends {day}.", cancel_at=end)


class Resumed(Output):
    message: str = Field(description="For the customer, in English")
    status: str = Field(description="The subscription's status")
    current_period_end: int | None = Field(description="When it renews, unix seconds")


class PauseWish(Input):
    behavior: Literal["pause", "keep_as_draft", "mark_uncollectible", "void"] = Field(
        default="pause",
        description="`pause` stops service and billing, and credits unused time; the others leave the service and say "
        "what becomes of invoices meanwhile",
    )
    resumes_at: int | None = Field(
        default=None, ge=0, le=MAX_SECOND, description="When it ends by itself, unix seconds; not for `pause`"
    )


class PauseSubscription(PauseWish, SubscriptionChoice):
    """How, and for how long."""


@router.get("/subscription", responses={404: {"description": "`subscription_not_found`: before the first one"}})
async def get_subscription(
    session: SessionDep, catalog: CatalogDep, user: ReadUserDep, subscription_id: SubscriptionIdQuery = None
) -> SubscriptionRead:
    """The newest subscription that has not ended, else the last that did; or the one named.

    `scheduled_change` and `payment` say what is to come and what is to be paid. 404 `subscription_not_found` before the
    first one.
    """
    return await show_one(session, catalog, await reading.own(session, user.user_id, subscription_id))


@router.get("/subscription/status")
async def get_subscription_status(session: SessionDep, catalog: CatalogDep, user: ReadUserDep) -> SubscriptionStatus:
    """The plan in force; never 404."""
    held = await access.entitlements(session, catalog, user_id=user.user_id, now=unix_now())
    return SubscriptionStatus(
        tier=held.plan.key,
        status=held.status,
        current_period_end=held.current_period_end,
        cancel_at_period_end=held.cancel_at_period_end,
    )


@router.get("/subscriptions", responses={404: {"description": "`subscription_not_found`: as `starting_after`"}})
async def list_subscriptions(
    *,
    session: SessionDep,
    catalog: CatalogDep,
    caller: CallerDep,
    page: PageDep,
    user_id: UserIdQuery = None,
    customer: Annotated[
        str | None, Query(max_length=MAX_ID_LENGTH, description="Only this customer's: Stripe's id, or the user's")
    ] = None,
    status: Annotated[str | None, Query(max_length=40, description="Only with this status of Stripe's")] = None,
    plan: Annotated[str | None, Query(max_length=40, description="Only of this plan")] = None,
) -> list[SubscriptionRead]:
    """Newest first, ended ones too: the caller's own; with a service key of scope `operator` everybody's."""
    rows = await reading.list_page(
        session,
        user_id=_whose(caller, user_id),
        customer=customer,
        status=status,
        plan=plan,
        limit=page.limit,
        starting_after=page.starting_after,
    )
    return await show(session, catalog, page.cut(rows, lambda row: row.stripe_id))


@router.get("/subscriptions/{id}", responses={404: {"description": "`subscription_not_found`"}})
async def get_subscription_by_id(
    *,
    session: SessionDep,
    catalog: CatalogDep,
    caller: CallerDep,
    id: SubscriptionIdPath,
    user_id: UserIdQuery = None,
) -> SubscriptionRead:
    """One of the caller's own; with a service key of scope `operator` anybody's."""
    owner = _whose(caller, user_id)
    row = await reading.get(session, id) if owner is None else await reading.own(session, owner, id)
    return await show_one(session, catalog, row)


@router.post("/subscription/cancel", responses=CHANGED)
async def cancel_subscription(
    *,
    session: SessionDep,
    provider: ProviderDep,
    user: WriteUserDep,
    actor: ActorDep,
    idempotency_key: IdempotencyKeyDep,
    body: CancelSubscription | None = None,
) -> Canceled:
    """End the subscription with the period that is paid for, or at once.

    Asking again for the end of the period is no error; once it has ended there is nothing left to cancel (404).
    """
    wish = body or CancelSubscription()
    row = await canceling.cancel(
        session,
        provider,
        await reading.own_live(session, user.user_id, wish.subscription_id),
        at_period_end=wish.at_period_end,
        reason=wish.reason,
        feedback=wish.feedback,
        idempotency_key=idempotency_key,
        actor=actor,
    )
    return Canceled.of(row)


@router.post("/subscription/resume", responses=CHANGED)
async def resume_subscription(
    *,
    session: SessionDep,
    provider: ProviderDep,
    user: WriteUserDep,
    actor: ActorDep,
    idempotency_key: IdempotencyKeyDep,
    body: SubscriptionChoice | None = None,
) -> Resumed:
    """Take back a cancellation, or a change, that waits for the period's end; 409 when there is none."""
    mine = await reading.own_live(session, user.user_id, body.subscription_id if body else None)
    row = await canceling.resume(session, provider, mine, idempotency_key=idempotency_key, actor=actor)
    return Resumed(message="The subscription goes on.", status=row.status, current_period_end=row.current_period_end)


@router.post("/subscription/pause", responses=CHANGED)
async def pause_subscription(
    *,
    session: SessionDep,
    provider: ProviderDep,
    catalog: CatalogDep,
    caller: CallerDep,
    user: WriteUserDep,
    actor: ActorDep,
    idempotency_key: IdempotencyKeyDep,
    body: PauseSubscription | None = None,
) -> SubscriptionRead:
    """Stop billing for a while, and with `pause` the service too; 409 `subscription_not_pausable`.

    Service without billing is not the customer's to take: any other `behavior` needs a service key.
    """
    wish = body or PauseSubscription()
    if isinstance(caller, User) and wish.behavior != "pause":
        raise PermissionDeniedError("Only a service key may let the service go on unpaid.")
    row = await pausing.pause(
        session,
        provider,
        await reading.own_live(session, user.user_id, wish.subscription_id),
        behavior=wish.behavior,
        resumes_at=wish.resumes_at,
        idempotency_key=idempotency_key,
        actor=actor,
    )
    return await show_one(session, catalog, row)


@router.post("/subscription/unpause", responses=CHANGED)
async def unpause_subscription(
    *,
    session: SessionDep,
    provider: ProviderDep,
    catalog: CatalogDep,
    user: WriteUserDep,
    actor: ActorDep,
    idempotency_key: RequiredIdempotencyKeyDep,
    body: SubscriptionChoice | None = None,
) -> ChangeResult:
    """End a pause. After `pause` a new period begins and is charged at once; 409 `subscription_not_paused`."""
    outcome = await pausing.unpause(
        session,
        provider,
        await reading.own_live(session, user.user_id, body.subscription_id if body else None),
        idempotency_key=idempotency_key,
        actor=actor,
    )
    return await show_outcome(session, catalog, outcome)


def _whose(caller: Caller, user_id: str | None) -> str | None:
    """The user whose subscriptions are meant; None for everybody's, which only operators may mean."""
    if not isinstance(caller, User) and "operator" in caller.scopes:
        return user_id
    return user_meant(caller, "billing:read", user_id).user_id
