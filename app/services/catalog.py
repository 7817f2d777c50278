"""plans.yaml: what is sold and what it allows, and bringing Stripe in line with it."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self
from uuid import uuid4

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.db import release
from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.provider.objects import Price
from app.provider.protocol import CatalogProvider
from app.services import audit

PLAN_METADATA = "billhook_plan"
Verdict = Literal["grant", "grace", "deny"]
Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class CatalogError(ValueError):
    """plans.yaml can't be used; the message says where and why."""


class Plan(BaseModel):
    """`amount` in minor units of the catalogue's currency per `interval`; 0 is a plan nobody pays for.

    `limits` maps what is limited to how many a period; None is without limit. `grace_days` is how long access lasts
    after the first failed payment of a renewal.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: Key
    name: str = Field(min_length=1, max_length=100)
    description: str = ""
    amount: int = Field(ge=0, le=99_999_999)
    currency: str
    interval: Literal["day", "week", "month", "year"] = "month"
    trial_days: int = Field(default=0, ge=0, le=730)
    grace_days: int = Field(default=0, ge=0, le=90)
    features: tuple[Key, ...] = ()
    limits: Mapping[Key, Annotated[int, Field(ge=0)] | None] = Field(default_factory=dict)

    @property
    def lookup_key(self) -> str:
        return f"billhook_{self.key}"

    @property
    def product_id(self) -> str:
        return f"billhook_{self.key}"


class Catalog(BaseModel):
    """The whole file. `access` says what each subscription status means for access."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: str = Field(pattern=r"^[a-z]{3}$")
    plans: Mapping[Key, Plan]
    default_plan: Key
    access: Mapping[str, Verdict]

    @model_validator(mode="after")
    def _default_is_free(self) -> Self:
        plan = self.plans.get(self.default_plan)
        if plan is None or plan.amount:
            raise ValueError(f"default_plan {self.default_plan!r} must be one of the plans, with amount 0")
        return self

    def plan(self, key: str) -> Plan:
        """Raises NotFoundError for a plan that isn't in the catalogue."""
        if (plan := self.plans.get(key)) is None:
            raise NotFoundError("There is no such plan.", code="plan_not_found", param="plan")
        return plan


def load(path: Path) -> Catalog:
    """Read and check plans.yaml. Raises CatalogError."""
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise CatalogError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise CatalogError(f"{path}: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("plans"), dict):
        raise CatalogError(f"{path}: expected a mapping with `plans`")
    plans = {
        key: {**plan, "key": key, "currency": data.get("currency")} if isinstance(plan, dict) else plan
        for key, plan in data["plans"].items()
    }
    try:
        return Catalog.model_validate({**data, "plans": plans})
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors(include_url=False)]
        raise CatalogError(f"{path}: " + "; ".join(lines)) from error


@dataclass(frozen=True, slots=True)
class Change:
    """One thing `apply` did, or would do."""

    what: str
    id: str
    action: Literal["create", "update", "replace", "keep"]


async def apply(
    session: AsyncSession, provider: CatalogProvider, catalog: Catalog, *, livemode: bool, dry_run: bool = False
) -> list[Change]:
    """Create or update a product and a price at Stripe for every paid plan. Running it again changes nothing.

    A new amount makes a new price that takes the lookup key over; subscribers keep the old one.
    """
    paid = [plan for plan in catalog.plans.values() if plan.amount]
    await release(session)
    held = {price.lookup_key: price for price in await provider.list_prices(lookup_keys=[p.lookup_key for p in paid])}
    changes: list[Change] = []
    prices: list[tuple[Plan, Price]] = []
    for plan in paid:
        changes.append(await _apply_product(provider, plan, dry_run=dry_run))
        price = held.get(plan.lookup_key)
        wanted = price is not None and _matches(price, plan)
        changes.append(Change("price", plan.lookup_key, "keep" if wanted else "create" if price is None else "replace"))
        if not wanted and not dry_run:
            price = await provider.create_price(
                product=plan.product_id,
                currency=plan.currency,
                unit_amount=plan.amount,
                interval=plan.interval,
                lookup_key=plan.lookup_key,
                metadata={PLAN_METADATA: plan.key},
                idempotency_key=_price_key(plan, price),
            )
        if price is not None:
            prices.append((plan, price))
    if not dry_run:
        for plan, price in prices:
            await _store(session, plan, price, livemode=livemode)
        done = [f"{change.action} {change.what} {change.id}" for change in changes if change.action != "keep"]
        if done:
            await audit.record(session, actor="cli", action="catalog.applied", subject="plans", after={"changes": done})
    return changes


async def _apply_product(provider: CatalogProvider, plan: Plan, *, dry_run: bool) -> Change:
    product = await provider.retrieve_product(plan.product_id)
    # Stripe refuses an empty description.
    description = plan.description or None
    if product is not None and (product.name, product.description, product.active) == (plan.name, description, True):
        return Change("product", plan.product_id, "keep")
    if not dry_run:
        await provider.save_product(
            id=plan.product_id,
            name=plan.name,
            description=description,
            metadata={PLAN_METADATA: plan.key},
            exists=product is not None,
        )
    return Change("product", plan.product_id, "create" if product is None else "update")


def _matches(price: Price, plan: Plan) -> bool:
    return price.active and (
        price.unit_amount,
        price.currency,
        price.interval,
        price.interval_count,
        price.product,
    ) == (
        plan.amount,
        plan.currency,
        plan.interval,
        1,
        plan.product_id,
    )


def _price_key(plan: Plan, replaced: Price | None) -> str:
    terms = f"{plan.amount}/{plan.currency}/{plan.interval}/{replaced.id if replaced else ''}"
    return f"billhook-price-{plan.key}-{hashlib.sha256(terms.encode()).hexdigest()[:32]}"


async def _store(session: AsyncSession, plan: Plan, price: Price, *, livemode: bool) -> None:
    await session.execute(
        update(models.Price)
        .where(models.Price.lookup_key == plan.lookup_key, models.Price.stripe_id != price.id)
        .values(lookup_key=None)
    )
    values = {
        "plan": plan.key,
        "product": price.product,
        "lookup_key": plan.lookup_key,
        "currency": price.currency,
        "unit_amount": price.unit_amount,
        "interval": price.interval,
        "interval_count": price.interval_count,
        "active": price.active,
        "stripe_metadata": dict(price.metadata),
        "livemode": livemode,
        "created": price.created,
        "synced_at": price.created,
    }
    await session.execute(
        insert(models.Price)
        .values(id=uuid4(), stripe_id=price.id, **values)
        .on_conflict_do_update(index_elements=["stripe_id"], set_=values)
    )


async def price_for(session: AsyncSession, catalog: Catalog, *, plan: str | None, price_id: str | None) -> models.Price:
    """The price a customer asked for by plan or by id. Raises InvalidRequestError, NotFoundError or ConflictError."""
    if plan is not None:
        if not catalog.plan(plan).amount:
            raise InvalidRequestError("This plan costs nothing.", code="plan_is_free", param="plan")
        query = select(models.Price).where(models.Price.lookup_key == catalog.plan(plan).lookup_key)
        if (price := await session.scalar(query)) is None:
            raise ConflictError(
                "This plan has no price at Stripe yet: run `billhook plans apply`.", code="plan_not_applied"
            )
        return price
    found = await session.scalar(select(models.Price).where(models.Price.stripe_id == price_id))
    # Replaced prices keep their subscribers but take no new ones: whoever holds the lookup key is on sale.
    if found is None or not found.active or found.lookup_key is None or found.plan not in catalog.plans:
        raise NotFoundError("There is no such price on sale.", code="price_not_found", param="price_id")
    return found


async def plans_of_prices(session: AsyncSession, price_ids: Iterable[str]) -> dict[str, str]:
    """The plan, today's or a former one, of each price that is one of ours."""
    found = await session.execute(
        select(models.Price.stripe_id, models.Price.plan).where(
            models.Price.stripe_id.in_(price_ids), models.Price.plan.is_not(None)
        )
    )
    return {row.stripe_id: row.plan for row in found}


def plan_of_price(price: Price, plans: Mapping[str, str]) -> str | None:
    """The plan a price belongs to, `plans` being those of our prices; None for prices made elsewhere."""
    return plans.get(price.id) or price.metadata.get(PLAN_METADATA)
