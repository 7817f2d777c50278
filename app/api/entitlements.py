"""What a customer may use now, and which rule says so."""

from collections.abc import Mapping
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Path
from pydantic import Field, model_validator

from app.api.deps import CallerDep, CatalogDep, ReadUserDep, SessionDep, UserIdQuery, key_with, user_meant
from app.api.paging import MAX_ID_LENGTH
from app.api.schemas import Input, Output
from app.api.subscriptions_shapes import SubscriptionRead, show
from app.services import access
from app.services.credits import reading
from app.services.identity import ServiceKey
from app.values import unix_now

router = APIRouter(tags=["Entitlements"])


class CreditsRead(Output):
    """The account of prepaid uses."""

    available: int = Field(description="How many uses can be spent")
    free: int = Field(description="How many of them are free")
    paid: int = Field(description="How many of them were bought or given")
    owed: int = Field(description="Uses that were taken back after they had been spent; new ones settle them first")


class EntitlementsRead(Output):
    """The plan in force and what it allows."""

    plan: str = Field(description="The plan's key", examples=["pro"])
    plan_name: str = Field(description="What customers read")
    status: str = Field(description="The subscription's status, or `none`")
    rule: str = Field(description="The rule that decided, `{status}:{verdict}`", examples=["active:grant"])
    reason: str = Field(description="The same as a sentence, in English")
    source: str | None = Field(description="The subscription that decided")
    features: tuple[str, ...] = Field(description="What is switched on")
    limits: Mapping[str, int | None] = Field(description="How much of what is allowed; null is without limit")
    current_period_end: int | None = Field(description="Unix seconds")
    cancel_at_period_end: bool = Field(description="Whether the subscription ends with the period")
    access_ends_at: int | None = Field(description="When the plan ends as things stand, unix seconds; null: it goes on")
    grace_until: int | None = Field(description="When access ends unless payment succeeds, unix seconds")
    credits: CreditsRead | None = Field(description="Prepaid uses; null for whoever has no account of them")


class EntitlementsCheck(Input):
    """Exactly one of `feature` and `meter`."""

    feature: str | None = Field(
        default=None, max_length=40, description="Something a plan switches on", examples=["sso"]
    )
    meter: str | None = Field(default=None, max_length=40, description="Something a plan limits", examples=["seats"])
    quantity: int = Field(
        default=1,
        ge=0,
        le=2**53,
        description="How much is wanted: beside what the meter counted; of what nothing counts, the total",
    )
    customer: str | None = Field(
        default=None, min_length=1, max_length=255, description="With a service key: the user who is meant"
    )

    @model_validator(mode="after")
    def _asks_one_thing(self) -> Self:
        if (self.feature is None) == (self.meter is None):
            raise ValueError("Send exactly one of feature and meter")
        return self


class VerdictRead(Output):
    """What one subscription gives by itself, and why."""

    subscription: SubscriptionRead = Field(description="With what is owed and scheduled")
    grants: str | None = Field(description="The plan it grants; null for none")
    decides: bool = Field(description="Whether it is the one that decides")
    rule: str = Field(description="`{status}:{verdict}`", examples=["past_due:grace"])
    reason: str = Field(description="The same as a sentence, in English")
    access_ends_at: int | None = Field(description="When it stops granting as things stand, unix seconds")


class LimitRead(Output):
    """One of the plan's limits."""

    limit: int | None = Field(description="Null is without limit")
    used: int | None = Field(description="What the meter counted in this period; null where nothing is counted")


class AccessExplanation(Output):
    """How it is decided what a customer may use."""

    user_id: str | None = Field(description="The user; null for customers made elsewhere")
    customers: list[str] = Field(description="Stripe's ids")
    plan: str = Field(description="The plan in force")
    rule: str = Field(description="The rule that decided", examples=["active:grant", "none:default"])
    reason: str = Field(description="The same as a sentence, in English")
    access_ends_at: int | None = Field(description="When the plan ends as things stand, unix seconds")
    subscriptions: list[VerdictRead] = Field(description="All that were considered, newest first")
    features: tuple[str, ...] = Field(description="What is switched on")
    limits: Mapping[str, LimitRead] = Field(description="By name, meters included")
    resets_at: int = Field(description="When counting begins anew, unix seconds")


class DecisionRead(Output):
    """The answer, and why."""

    allowed: bool = Field(description="Whether the customer may")
    reason: str = Field(description="Stable name of the reason", examples=["feature_included"])
    rule: str = Field(description="The rule that decided which plan counts", examples=["active:grant"])
    plan: str = Field(description="The plan in force")
    limit: int | None = Field(description="The plan's limit; null where there is none")
    used: int | None = Field(description="How much is used; null where nothing is counted")
    remaining: int | None = Field(description="How much is left; null where nothing is counted")
    resets_at: int | None = Field(description="When counting begins anew, unix seconds")
    source: str | None = Field(description="The subscription that decided")


@router.get("/entitlements")
async def get_entitlements(session: SessionDep, catalog: CatalogDep, user: ReadUserDep) -> EntitlementsRead:
    """Everything the customer may use."""
    now = unix_now()
    held = await access.entitlements(session, catalog, user_id=user.user_id, now=now)
    prepaid = await reading.account_of_user(session, user.user_id, now=now)
    return EntitlementsRead(
        plan=held.plan.key,
        plan_name=held.plan.name,
        status=held.status,
        rule=held.rule,
        reason=held.reason,
        source=held.source,
        features=held.features,
        limits=held.limits,
        current_period_end=held.current_period_end,
        cancel_at_period_end=held.cancel_at_period_end,
        access_ends_at=held.access_ends_at,
        grace_until=held.grace_until,
        credits=None if prepaid is None else CreditsRead.model_validate(prepaid.balance),
    )


@router.post("/entitlements/check")
async def check_entitlement(
    session: SessionDep, catalog: CatalogDep, caller: CallerDep, body: EntitlementsCheck, user_id: UserIdQuery = None
) -> DecisionRead:
    """Whether the customer may use a feature, or have so much of something limited."""
    user = user_meant(caller, "billing:read", body.customer or user_id)
    decision = await access.check(
        session,
        catalog,
        user_id=user.user_id,
        feature=body.feature,
        meter=body.meter,
        quantity=body.quantity,
        now=unix_now(),
    )
    return DecisionRead.model_validate(decision)


@router.get("/customers/{id}/access/explain", responses={404: {"description": "`customer_not_found`"}})
async def explain_access(
    *,
    session: SessionDep,
    catalog: CatalogDep,
    _key: Annotated[ServiceKey, Depends(key_with("billing:read", "operator"))],
    id: Annotated[str, Path(max_length=MAX_ID_LENGTH, description="A user id, or the id of a Stripe customer")],
) -> AccessExplanation:
    """For support: every subscription that was considered, the rule that judged it, and what that comes to.

    Needs a service key of scope `billing:read` or `operator`.
    """
    told = await access.explain(session, catalog, id, now=unix_now())
    held = told.held
    shown = await show(session, catalog, [verdict.subscription for verdict in told.verdicts])
    return AccessExplanation(
        user_id=told.user_id,
        customers=list(told.customers),
        plan=held.plan.key,
        rule=held.rule,
        reason=held.reason,
        access_ends_at=held.access_ends_at,
        subscriptions=[
            VerdictRead(
                subscription=subscription,
                grants=None if verdict.plan is None else verdict.plan.key,
                decides=subscription.id == held.source,
                rule=verdict.rule,
                reason=verdict.reason,
                access_ends_at=verdict.access_ends_at,
            )
            for subscription, verdict in zip(shown, told.verdicts, strict=True)
        ],
        features=held.features,
        limits={
            name: LimitRead(limit=held.limits.get(name), used=told.used.get(name))
            for name in {**held.limits, **told.used}
        },
        resets_at=told.resets_at,
    )
