"""GET /plans: the public pricing table."""

from collections.abc import Mapping

from fastapi import APIRouter
from pydantic import Field

from app.api.deps import CatalogDep
from app.api.schemas import DecimalNumber, Output
from app.services.catalog import Plan
from app.values import Money

router = APIRouter(tags=["Plans"])


class PlanRead(Output):
    """A plan as plans.yaml declares it."""

    plan: str = Field(description="The plan's key, as POST /checkout/session takes it", examples=["pro"])
    name: str = Field(description="What customers read", examples=["Pro"])
    description: str = Field(description="One line for the pricing table")
    plan_amount: DecimalNumber = Field(description="Price per `interval` in major units", examples=[99.0])
    plan_amount_minor: int = Field(description="The same in the currency's minor unit; 0 is free", examples=[9900])
    currency: str = Field(description="ISO 4217, lower case", examples=["usd"])
    interval: str = Field(description="`day`, `week`, `month` or `year`", examples=["month"])
    trial_days: int = Field(description="Days of free trial, once per customer; 0 for none")
    features: tuple[str, ...] = Field(description="What the plan switches on", examples=[["api_access"]])
    limits: Mapping[str, int | None] = Field(
        description="How much of what the plan allows; null is without limit", examples=[{"seats": 10}]
    )

    @classmethod
    def of(cls, plan: Plan) -> "PlanRead":
        return cls(
            plan=plan.key,
            name=plan.name,
            description=plan.description,
            plan_amount=Money(plan.amount, plan.currency).decimal,
            plan_amount_minor=plan.amount,
            currency=plan.currency,
            interval=plan.interval,
            trial_days=plan.trial_days,
            features=plan.features,
            limits=plan.limits,
        )


@router.get("/plans")
async def list_plans(catalog: CatalogDep) -> list[PlanRead]:
    """What is sold, in the catalogue's order. Needs no token."""
    return [PlanRead.of(plan) for plan in catalog.plans.values()]
