"""The catalogue: what is sold, what it allows, and which of Stripe's prices stand for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.provider.objects import Price
from app.values import charge_step

PLAN_METADATA = "billhook_plan"
PREFIX = "billhook_"
"""What begins the ids of products and the lookup keys of prices that plans.yaml makes."""
Verdict = Literal["grant", "grace", "deny"]
Status = Literal["trialing", "active", "past_due", "unpaid", "paused", "incomplete", "incomplete_expired", "canceled"]
"""Stripe's for subscriptions: one misspelt in plans.yaml would deny what was meant to be granted."""
Interval = Literal["day", "week", "month", "year"]
Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Currency = Annotated[str, Field(pattern=r"^[a-z]{3}$")]
Amount = Annotated[int, Field(strict=True, ge=1, le=99_999_999)]  # strict: a `99.00` would be taken for 99 cents
MODEL = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class Terms:
    """One price: `amount` minor units per `interval`, or once; whoever holds the lookup key at Stripe is on sale."""

    lookup_key: str
    amount: int
    currency: str
    interval: Interval | None


class Plan(BaseModel):
    """What a subscription to it costs, and what it allows."""

    model_config = MODEL

    key: Key
    name: str = Field(min_length=1, max_length=100)
    """What customers read."""
    description: str = Field(default="", max_length=1000)
    """One line for the pricing table."""
    currency: Currency
    """ISO 4217, lower case; without it, that of the file."""
    amount: int = Field(strict=True, ge=0, le=99_999_999)
    """Minor units of the currency per interval; 0 is a plan nobody pays for."""
    interval: Interval = "month"
    """How often it is paid."""
    other_prices: Mapping[Interval, Amount] = Field(default_factory=dict)
    """What the same plan costs per other intervals, e.g. `{year: 99000}`."""
    trial_days: int = Field(default=0, strict=True, ge=0, le=730)
    """Days of free trial, once per customer."""
    grace_days: int = Field(default=0, strict=True, ge=0, le=90)
    """How long access lasts after the first failed payment of a renewal."""
    features: tuple[Key, ...] = ()
    """What the plan switches on."""
    limits: Mapping[Key, Annotated[int, Field(strict=True, ge=0)] | None] = Field(default_factory=dict)
    """How many of what the plan allows a period; null is without limit. Those named as a meter limit its usage."""
    access: Mapping[Status, Verdict] = Field(default_factory=dict)
    """What a subscription's status means for this plan, where it isn't what the file's own `access` says."""

    @field_validator("amount")
    @classmethod
    def _amount_can_be_charged(cls, amount: int, info: ValidationInfo) -> int:
        return chargeable(amount, info)

    @field_validator("other_prices")
    @classmethod
    def _other_prices_can_be_charged(cls, prices: Mapping[str, int], info: ValidationInfo) -> Mapping[str, int]:
        if prices and info.data.get("amount") == 0:
            raise ValueError("A free plan has no other prices")
        if info.data.get("interval") in prices:
            raise ValueError(f"The price per {info.data['interval']} is the plan's `amount`")
        for amount in prices.values():
            chargeable(amount, info)
        return prices

    @property
    def product_id(self) -> str:
        return PREFIX + self.key

    @property
    def terms(self) -> tuple[Terms, ...]:
        """What it costs, first per `interval`; nothing for a free plan."""
        if not self.amount:
            return ()
        first = Terms(PREFIX + self.key, self.amount, self.currency, self.interval)
        others = self.other_prices.items()
        # No key of a plan has a full stop, so this is no other plan's lookup key.
        return (first, *(Terms(f"{PREFIX}{self.key}.{per}", amount, self.currency, per) for per, amount in others))


class Meter(BaseModel):
    """What usage is counted by: one of Stripe's meters."""

    model_config = MODEL

    key: Key
    name: str = Field(min_length=1, max_length=250)
    """What Stripe's dashboard shows; without it, the key in words."""
    event_name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")
    """What its events are called at Stripe. It can't be changed later, nor can the aggregation."""
    aggregation: Literal["sum", "count", "last"] = "sum"
    """How a period's events become its usage."""


class Pack(BaseModel):
    """Uses that are bought once, with no subscription."""

    model_config = MODEL

    key: Key
    name: str = Field(min_length=1, max_length=100)
    """What customers read."""
    description: str = Field(default="", max_length=1000)
    """One line for the pricing table."""
    currency: Currency
    """ISO 4217, lower case; without it, that of the file."""
    amount: Amount
    """Minor units of the currency."""
    uses: int = Field(strict=True, ge=1, le=1_000_000_000)
    """How many are bought."""
    expires_days: int | None = Field(default=None, strict=True, ge=1, le=3650)
    """Days after the purchase when what is left of them is lost; without it, never."""

    @field_validator("amount")
    @classmethod
    def _amount_can_be_charged(cls, amount: int, info: ValidationInfo) -> int:
        return chargeable(amount, info)

    @property
    def product_id(self) -> str:
        return PREFIX + self.key

    @property
    def terms(self) -> tuple[Terms, ...]:
        return (Terms(PREFIX + self.key, self.amount, self.currency, None),)


class Credits(BaseModel):
    """How prepaid uses work; the packs say what they cost."""

    model_config = MODEL

    free_uses: int = Field(default=3, strict=True, ge=0, le=1_000_000)
    """How many everybody may have before buying a pack."""
    low_at: int = Field(default=2, strict=True, ge=-1, le=1_000_000_000)
    """`credits.low` is told when a balance falls to this; -1 is never."""
    hold_seconds: int = Field(default=900, strict=True, ge=1, le=604_800)
    """How long a hold lasts that doesn't say."""


class Catalog(BaseModel):
    """plans.yaml: what is sold, and what it allows."""

    model_config = MODEL

    currency: Currency
    """ISO 4217, lower case: of every amount that names no other."""
    plans: Mapping[Key, Plan]
    """What customers subscribe to. A key stays for ever: it is how Stripe's prices know their plan."""
    meters: Mapping[Key, Meter] = Field(default_factory=dict)
    """What usage is counted by."""
    packs: Mapping[Key, Pack] = Field(default_factory=dict)
    """What is bought once. Whoever has used up their credits is offered the first."""
    credits: Credits = Credits()
    """What prepaid uses there are without a purchase."""
    default_plan: Key
    """The free plan of everybody without a subscription that grants access."""
    access: Mapping[Status, Verdict]
    """What each of Stripe's subscription statuses means for access."""

    @field_validator("meters")
    @classmethod
    def _event_names_differ(cls, meters: Mapping[str, Meter]) -> Mapping[str, Meter]:
        if len({meter.event_name for meter in meters.values()}) < len(meters):
            raise ValueError("Two meters have the same event_name")
        return meters

    @field_validator("packs")
    @classmethod
    def _packs_are_no_plans(cls, packs: Mapping[str, Pack], info: ValidationInfo) -> Mapping[str, Pack]:
        if both := packs.keys() & info.data.get("plans", {}).keys():
            raise ValueError(f"{min(both)!r} is a plan already")
        return packs

    @field_validator("default_plan")
    @classmethod
    def _default_is_free(cls, key: str, info: ValidationInfo) -> str:
        if (plans := info.data.get("plans")) is not None and (key not in plans or plans[key].amount):
            raise ValueError("The default_plan must be one of the plans, with amount 0")
        return key

    def access_for(self, plan: Plan | None, status: str) -> Verdict:
        """What a subscription's status means for access to its plan; one that nobody declared is denied."""
        for policy in (self.access if plan is None else plan.access, self.access):
            for declared, verdict in policy.items():
                if declared == status:
                    return verdict
        return "deny"

    @property
    def sold(self) -> tuple[Plan | Pack, ...]:
        """Everything that costs something, and so is a product at Stripe."""
        return (*(plan for plan in self.plans.values() if plan.amount), *self.packs.values())

    def plan(self, key: str) -> Plan:
        """Raises NotFoundError for a plan that isn't in the catalogue."""
        if (plan := self.plans.get(key)) is None:
            raise NotFoundError("There is no such plan.", code="plan_not_found", param="plan")
        return plan


def chargeable(amount: int, info: ValidationInfo) -> int:
    """The amount, if Stripe can charge it in the currency beside it. Raises ValueError."""
    currency = info.data.get("currency", "")
    if amount % (step := charge_step(currency)):
        raise ValueError(f"In {currency}, Stripe only takes multiples of {step}")
    return amount


async def price_for(
    session: AsyncSession, catalog: Catalog, *, plan: str | None, price_id: str | None, interval: str | None = None
) -> models.Price:
    """The price a customer asked for, by plan (and interval, if not the plan's first) or by id.

    Raises InvalidRequestError, NotFoundError or ConflictError.
    """
    if plan is not None:
        if (price := await find_on_sale(session, _terms_of(catalog.plan(plan), interval))) is None:
            raise ConflictError(
                "This plan has no price at Stripe yet: run `billhook plans apply`.", code="plan_not_applied"
            )
        return price
    found = await session.scalar(
        select(models.Price).where(models.Price.stripe_id == price_id, models.Price.active, ~models.Price.deleted)
    )
    # Replaced prices keep their subscribers but take no new ones: whoever holds the lookup key is on sale.
    on_sale = found is not None and found.lookup_key is not None and found.interval is not None
    if found is None or not on_sale or await plan_of(session, found) not in catalog.plans:
        raise NotFoundError("There is no such price on sale.", code="price_not_found", param="price_id")
    return found


async def find_on_sale(session: AsyncSession, terms: Terms) -> models.Price | None:
    """The price that holds the lookup key now, whatever it costs."""
    query = (
        select(models.Price)
        .where(models.Price.lookup_key == terms.lookup_key, models.Price.active, ~models.Price.deleted)
        .order_by(models.Price.created.desc())  # while a key moves from one price to the next, both may show it
    )
    return (await session.scalars(query.limit(1))).first()


def _terms_of(plan: Plan, interval: str | None) -> Terms:
    if not plan.amount:
        raise InvalidRequestError("This plan costs nothing.", code="plan_is_free", param="plan")
    for terms in plan.terms:
        if interval in {None, terms.interval}:
            return terms
    raise InvalidRequestError("This plan is not sold by that interval.", code="interval_not_sold", param="interval")


async def plans_of_prices(session: AsyncSession, price_ids: Iterable[str]) -> dict[str, str]:
    """The plan, today's or a former one, of each price that has one of its own or its product's."""
    plan = func.coalesce(models.Price.plan, models.Product.plan)
    found = await session.execute(
        select(models.Price.stripe_id, plan.label("plan"))
        .outerjoin(models.Product, models.Product.stripe_id == models.Price.product)
        .where(models.Price.stripe_id.in_(price_ids), plan.is_not(None))
    )
    return {row.stripe_id: row.plan for row in found}


async def plan_of(session: AsyncSession, price: models.Price) -> str | None:
    """The plan, today's or a former one, that a price of ours belongs to."""
    return (await plans_of_prices(session, [price.stripe_id])).get(price.stripe_id)


def plan_of_price(price: Price, plans: Mapping[str, str]) -> str | None:
    """The plan a price belongs to, `plans` being those of our prices; None for prices made elsewhere."""
    return plans.get(price.id) or plan_named(price)


def plan_named(price: Price) -> str | None:
    """The plan a price names itself, by its metadata or by a lookup key as `plans apply` gives them."""
    if plan := price.metadata.get(PLAN_METADATA):
        return plan
    if price.lookup_key is None or not price.lookup_key.startswith(PREFIX):
        return None
    return price.lookup_key.removeprefix(PREFIX).partition(".")[0]
