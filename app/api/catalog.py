"""The public pricing table: plans and packs."""

from collections.abc import Mapping

from fastapi import APIRouter, Depends
from pydantic import Field

from app.api.caching import public_for_a_minute
from app.api.deps import CatalogDep
from app.api.schemas import DecimalNumber, Output
from app.services.catalog import Pack, Plan, Terms
from app.values import Money

router = APIRouter(tags=["Plans"])


class TermsRead(Output):
    """What a plan costs per one of its intervals."""

    interval: str = Field(description="`day`, `week`, `month` or `year`", examples=["year"])
    amount: DecimalNumber = Field(description="In major units", examples=[990.0])
    amount_minor: int = Field(description="In the currency's minor unit", examples=[99000])

    @classmethod
    def of(cls, terms: Terms) -> "TermsRead":
        amount = Money(terms.amount, terms.currency).decimal
        return cls(interval=str(terms.interval), amount=amount, amount_minor=terms.amount)


class PlanRead(Output):
    """A plan as plans.yaml declares it."""

    plan: str = Field(description="The plan's key, as POST /checkout/session takes it", examples=["pro"])
    name: str = Field(description="What customers read", examples=["Pro"])
    description: str = Field(description="One line for the pricing table")
    plan_amount: DecimalNumber = Field(description="Price per `interval` in major units", examples=[99.0])
    plan_amount_minor: int = Field(description="The same in the currency's minor unit; 0 is free", examples=[9900])
    currency: str = Field(description="ISO 4217, lower case", examples=["usd"])
    interval: str = Field(description="`day`, `week`, `month` or `year`", examples=["month"])
    prices: list[TermsRead] = Field(
        description="All it is sold at, beginning with the one above; POST /checkout/session takes the `interval`. "
        "Empty for a free plan"
    )
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
            prices=[TermsRead.of(terms) for terms in plan.terms],
            trial_days=plan.trial_days,
            features=plan.features,
            limits=plan.limits,
        )


class PackRead(Output):
    """Uses that are bought once, as plans.yaml declares them."""

    pack: str = Field(description="The pack's key", examples=["starter"])
    name: str = Field(description="What customers read", examples=["Starter"])
    description: str = Field(description="One line for the pricing table")
    amount: DecimalNumber = Field(description="Price in major units", examples=[5.0])
    amount_minor: int = Field(description="The same in the currency's minor unit", examples=[500])
    currency: str = Field(description="ISO 4217, lower case", examples=["usd"])
    uses: int = Field(description="How many are bought", examples=[20])
    expires_days: int | None = Field(description="Days after the purchase when the rest is lost; null is never")

    @classmethod
    def of(cls, pack: Pack) -> "PackRead":
        return cls(
            pack=pack.key,
            name=pack.name,
            description=pack.description,
            amount=Money(pack.amount, pack.currency).decimal,
            amount_minor=pack.amount,
            currency=pack.currency,
            uses=pack.uses,
            expires_days=pack.expires_days,
        )


@router.get("/plans", dependencies=[Depends(public_for_a_minute)])
async def list_plans(catalog: CatalogDep) -> list[PlanRead]:
    """What is sold, in the catalogue's order. Needs no token."""
    return [PlanRead.of(plan) for plan in catalog.plans.values()]


@router.get("/packs", dependencies=[Depends(public_for_a_minute)])
async def list_packs(catalog: CatalogDep) -> list[PackRead]:
    """The packs that are sold, in the catalogue's order. Needs no token."""
    return [PackRead.of(pack) for pack in catalog.packs.values()]
