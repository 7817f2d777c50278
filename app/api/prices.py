"""Prices at Stripe, for operators. What one costs can't be changed: a new one takes its lookup key over."""

from typing import Annotated, Any, Self

from fastapi import APIRouter, Path, Query
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from app import models
from app.api.deps import IdempotencyKeyDep, OperatorDep, ProviderDep, SessionDep
from app.api.paging import MAX_ID_LENGTH, PageDep
from app.api.problems import FROM_STRIPE
from app.api.schemas import DecimalNumber, Input, Metadata, Output
from app.services import prices
from app.services.catalog import Interval
from app.services.prices import NewPrice
from app.values import Money, charge_step

router = APIRouter(prefix="/prices", tags=["Catalogue"])

MAX_MINOR = 99_999_999  # Stripe's largest unit amount has eight digits
MAX_LOOKUP_KEY = 200
MAX_NICKNAME = 250
MAX_INTERVALS = 1095  # three years of days (docs.stripe.com/api/prices/create, recurring.interval_count)

FIXED = frozenset({"amount", "amount_minor", "currency", "interval", "interval_count", "meter", "product"})

IdPath = Annotated[str, Path(max_length=MAX_ID_LENGTH, description="Stripe's id of the price")]
_MISSING: dict[int | str, Any] = {404: {"description": "`price_not_found`"}}
_CHANGED = {
    **FROM_STRIPE,
    **_MISSING,
    409: {"description": "Its present state forbids it; or `idempotency_key_in_use`"},
}


class PriceRead(Output):
    """What Stripe charges, as it last showed it."""

    id: str = Field(description="Stripe's id", examples=["price_1QxYz"])
    product: str = Field(description="What it is the price of", examples=["billhook_pro"])
    plan: str | None = Field(description="The plan or pack of plans.yaml that it stands, or stood, for")
    active: bool = Field(description="Whether it is on sale; false is archived")
    currency: str = Field(description="ISO 4217, lower case", examples=["usd"])
    amount: DecimalNumber | None = Field(description="In major units", examples=[99.0])
    amount_minor: int | None = Field(
        description="In the currency's minor unit; null for tiers and fractions of a minor unit", examples=[9900]
    )
    interval: str | None = Field(description="`day`, `week`, `month` or `year`; null is paid once")
    interval_count: int = Field(description="How many intervals it pays for")
    usage_type: str | None = Field(description="`licensed` (by quantity) or `metered`; null is paid once")
    meter: str | None = Field(description="The meter at Stripe that counts the usage")
    nickname: str | None = Field(description="What operators call it; customers never read it")
    lookup_key: str | None = Field(description="The name that is on sale; a newer price can take it over")
    metadata: dict[str, str] = Field(description="The caller's own notes")
    created: int = Field(description="When it was made, unix seconds")

    @classmethod
    def of(cls, row: models.Price) -> Self:
        return cls(
            id=row.stripe_id,
            product=row.product,
            plan=row.plan,
            active=row.active,
            currency=row.currency,
            amount=None if row.unit_amount is None else Money(row.unit_amount, row.currency).decimal,
            amount_minor=row.unit_amount,
            interval=row.interval,
            interval_count=row.interval_count,
            usage_type=row.usage_type,
            meter=row.meter,
            nickname=row.nickname,
            lookup_key=row.lookup_key,
            metadata=row.stripe_metadata,
            created=row.created,
        )


class PriceCreate(Input):
    """What a product costs: once, or per interval."""

    product: str = Field(min_length=1, max_length=MAX_ID_LENGTH, description="Stripe's id of the product")
    currency: str = Field(pattern=r"^[a-z]{3}$", description="ISO 4217, lower case", examples=["usd"])
    amount_minor: int = Field(
        ge=0,
        le=MAX_MINOR,
        description="In the currency's minor unit: 2900 is $29, ¥2900 or 2.900 KWD",
    )
    interval: Interval | None = Field(default=None, description="How often it is paid; once by default")
    interval_count: int = Field(default=1, ge=1, le=MAX_INTERVALS, description="Every how many intervals")
    meter: str | None = Field(
        default=None, min_length=1, max_length=MAX_ID_LENGTH, description="Stripe's meter to bill the usage of"
    )
    nickname: str | None = Field(default=None, max_length=MAX_NICKNAME, description="What operators call it")
    lookup_key: str | None = Field(
        default=None, min_length=1, max_length=MAX_LOOKUP_KEY, description="A name to sell it by"
    )
    transfer_lookup_key: bool = Field(
        default=False, description="Take the lookup key over from the price that holds it"
    )
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.interval is None and (self.meter is not None or self.interval_count > 1):
            raise ValueError("A price that is paid once has no interval_count and no meter")
        if self.amount_minor % (step := charge_step(self.currency)):
            raise ValueError(f"In {self.currency}, Stripe only takes multiples of {step}")
        return self


class PriceUpdate(Input):
    """What is to change; what isn't sent stays."""

    active: bool | None = Field(
        default=None, description="False archives it: nobody new can buy it; true takes it back"
    )
    nickname: str | None = Field(default=None, max_length=MAX_NICKNAME, description="What operators call it")
    lookup_key: str | None = Field(
        default=None, max_length=MAX_LOOKUP_KEY, description="A name to sell it by; the empty text takes it away"
    )
    transfer_lookup_key: bool = Field(
        default=False, description="Take the lookup key over from the price that holds it"
    )
    metadata: Metadata | None = Field(
        default=None, description="Only these names are changed; the empty text takes one away"
    )

    @model_validator(mode="before")
    @classmethod
    def _keeps_what_it_costs(cls, data: Any) -> Any:
        if isinstance(data, dict) and FIXED & data.keys():
            raise PydanticCustomError(
                "price_immutable",
                "What a price costs can't be changed. Make a new one by POST /prices, with its lookup_key and "
                "transfer_lookup_key, and archive this one; whoever has subscribed to it keeps it.",
            )
        return data

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if all(value is None for value in (self.active, self.nickname, self.lookup_key, self.metadata)):
            raise ValueError("Send at least one of active, nickname, lookup_key and metadata")
        return self


@router.post(
    "",
    status_code=201,
    responses={**FROM_STRIPE, 404: {"description": "`product_not_found`; or Stripe knows no such meter"}},
)
async def create_price(
    *,
    session: SessionDep,
    provider: ProviderDep,
    operator: OperatorDep,
    idempotency_key: IdempotencyKeyDep,
    body: PriceCreate,
) -> PriceRead:
    """A new price of a product. What plans.yaml sells, `billhook plans apply` makes. Needs the scope `operator`."""
    new = NewPrice(
        product=body.product,
        currency=body.currency,
        unit_amount=body.amount_minor,
        interval=body.interval,
        interval_count=body.interval_count,
        meter=body.meter,
        nickname=body.nickname,
        lookup_key=body.lookup_key,
        transfer_lookup_key=body.transfer_lookup_key,
        metadata=body.metadata,
    )
    row = await prices.create(session, provider, new, idempotency_key=idempotency_key, actor=operator.actor)
    return PriceRead.of(row)


@router.get("", responses={404: {"description": "`price_not_found`: as `starting_after`"}})
async def list_prices(
    *,
    session: SessionDep,
    _operator: OperatorDep,
    page: PageDep,
    active: Annotated[bool | None, Query(description="Only those on sale, or only archived ones")] = None,
    product: Annotated[str | None, Query(max_length=MAX_ID_LENGTH, description="Only this product's")] = None,
    lookup_key: Annotated[
        str | None, Query(max_length=MAX_LOOKUP_KEY, description="Only the one on sale as this")
    ] = None,
) -> list[PriceRead]:
    """Newest first. Needs the scope `operator`."""
    rows = await prices.list_page(
        session,
        active=active,
        product=product,
        lookup_key=lookup_key,
        limit=page.limit,
        starting_after=page.starting_after,
    )
    return [PriceRead.of(row) for row in page.cut(rows, lambda row: row.stripe_id)]


@router.get("/{price_id}", responses=_MISSING)
async def get_price(session: SessionDep, _operator: OperatorDep, price_id: IdPath) -> PriceRead:
    """One of them. Needs the scope `operator`."""
    return PriceRead.of(await prices.get(session, price_id))


@router.patch("/{price_id}", responses=_CHANGED)
async def update_price(
    *,
    session: SessionDep,
    provider: ProviderDep,
    operator: OperatorDep,
    idempotency_key: IdempotencyKeyDep,
    price_id: IdPath,
    body: PriceUpdate,
) -> PriceRead:
    """Change what a price is called, or whether it is on sale; never what it costs. Needs the scope `operator`."""
    row = await prices.change(
        session,
        provider,
        price_id,
        active=body.active,
        nickname=body.nickname,
        lookup_key=body.lookup_key,
        transfer_lookup_key=body.transfer_lookup_key,
        metadata=body.metadata,
        idempotency_key=idempotency_key,
        actor=operator.actor,
    )
    return PriceRead.of(row)


@router.delete("/{price_id}", responses=_CHANGED)
async def archive_price(
    *,
    session: SessionDep,
    provider: ProviderDep,
    operator: OperatorDep,
    idempotency_key: IdempotencyKeyDep,
    price_id: IdPath,
) -> PriceRead:
    """Archive a price (`active` becomes false): it stays, and its subscribers with it, but nobody new can buy it.

    Stripe deletes no prices. Needs the scope `operator`.
    """
    row = await prices.change(
        session, provider, price_id, active=False, idempotency_key=idempotency_key, actor=operator.actor
    )
    return PriceRead.of(row)
