"""What a customer may use now, and which rule says so."""

from collections.abc import Mapping
from typing import Self

from fastapi import APIRouter
from pydantic import Field, model_validator

from app.api.deps import CallerDep, CatalogDep, ReadUserDep, SessionDep, UserIdQuery, user_meant
from app.api.schemas import Input, Output
from app.services import access
from app.values import unix_now

router = APIRouter(prefix="/entitlements", tags=["Entitlements"])


class EntitlementsRead(Output):
    """The plan in force and what it allows."""

    plan: str = Field(description="The plan's key", examples=["pro"])
    plan_name: str = Field(description="What customers read")
    status: str = Field(description="The subscription's status, or `none`")
    rule: str = Field(description="The rule that decided, `{status}:{verdict}`", examples=["active:grant"])
    source: str | None = Field(description="The subscription that decided")
    features: tuple[str, ...] = Field(description="What is switched on")
    limits: Mapping[str, int | None] = Field(description="How much of what is allowed; null is without limit")
    current_period_end: int | None = Field(description="Unix seconds")
    cancel_at_period_end: bool = Field(description="Whether the subscription ends with the period")
    grace_until: int | None = Field(description="When access ends unless payment succeeds, unix seconds")


class EntitlementsCheck(Input):
    """Exactly one of `feature` and `meter`."""

    feature: str | None = Field(
        default=None, max_length=40, description="Something a plan switches on", examples=["sso"]
    )
    meter: str | None = Field(default=None, max_length=40, description="Something a plan limits", examples=["seats"])
    quantity: int = Field(default=1, ge=0, le=2**53, description="For a meter: the total that is wanted")
    customer: str | None = Field(
        default=None, min_length=1, max_length=255, description="With a service key: the user who is meant"
    )

    @model_validator(mode="after")
    def _asks_one_thing(self) -> Self:
        if (self.feature is None) == (self.meter is None):
            raise ValueError("Send exactly one of feature and meter")
        return self


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


@router.get("")
async def get_entitlements(session: SessionDep, catalog: CatalogDep, user: ReadUserDep) -> EntitlementsRead:
    """Everything the customer may use."""
    held = await access.entitlements(session, catalog, user_id=user.user_id, now=unix_now())
    return EntitlementsRead(
        plan=held.plan.key,
        plan_name=held.plan.name,
        status=held.status,
        rule=held.rule,
        source=held.source,
        features=held.features,
        limits=held.limits,
        current_period_end=held.current_period_end,
        cancel_at_period_end=held.cancel_at_period_end,
        grace_until=held.grace_until,
    )


@router.post("/check")
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
