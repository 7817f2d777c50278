"""Products at Stripe, for operators: what is sold besides plans.yaml, and what it made."""

from typing import Annotated, Any, Self

from fastapi import APIRouter, Path, Query
from pydantic import Field, model_validator

from app import models
from app.api.deps import IdempotencyKeyDep, OperatorDep, ProviderDep, SessionDep
from app.api.paging import MAX_ID_LENGTH, PageDep
from app.api.problems import FROM_STRIPE
from app.api.schemas import Input, Metadata, Output
from app.services import products

router = APIRouter(prefix="/products", tags=["Catalogue"])

MAX_NAME = 250
MAX_DESCRIPTION = 1000

IdPath = Annotated[str, Path(max_length=MAX_ID_LENGTH, description="Stripe's id of the product")]
_MISSING: dict[int | str, Any] = {404: {"description": "`product_not_found`"}}
_CHANGED = {
    **FROM_STRIPE,
    **_MISSING,
    409: {"description": "Its present state forbids it; or `idempotency_key_in_use`"},
}


class ProductRead(Output):
    """What is sold, as Stripe last showed it; GET /prices says what it costs."""

    id: str = Field(description="Stripe's id", examples=["billhook_pro"])
    name: str = Field(description="What customers read", examples=["Pro"])
    description: str | None = Field(description="One line for them")
    active: bool = Field(description="Whether it is on sale; false is archived")
    plan: str | None = Field(description="The plan or pack of plans.yaml that it is; null for others", examples=["pro"])
    default_price: str | None = Field(description="The price that Stripe's own pages offer")
    metadata: dict[str, str] = Field(description="The caller's own notes")
    created: int = Field(description="When it was made, unix seconds")

    @classmethod
    def of(cls, row: models.Product) -> Self:
        return cls(
            id=row.stripe_id,
            name=row.name,
            description=row.description,
            active=row.active,
            plan=row.plan,
            default_price=row.default_price,
            metadata=row.stripe_metadata,
            created=row.created,
        )


class ProductCreate(Input):
    """What is to be sold."""

    name: str = Field(min_length=1, max_length=MAX_NAME, description="What customers read", examples=["Consulting"])
    description: str | None = Field(
        default=None, min_length=1, max_length=MAX_DESCRIPTION, description="One line for them"
    )
    metadata: Metadata = Field(default_factory=dict)


class ProductUpdate(Input):
    """What is to change; what isn't sent stays."""

    name: str | None = Field(default=None, min_length=1, max_length=MAX_NAME, description="What customers read")
    description: str | None = Field(
        default=None, max_length=MAX_DESCRIPTION, description="One line for them; the empty text takes it away"
    )
    active: bool | None = Field(
        default=None, description="False archives it: nobody new can buy it; true takes it back"
    )
    metadata: Metadata | None = Field(
        default=None, description="Only these names are changed; the empty text takes one away"
    )

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if all(value is None for _, value in self):
            raise ValueError("Send at least one of name, description, active and metadata")
        return self


@router.post("", status_code=201, responses=FROM_STRIPE)
async def create_product(
    *,
    session: SessionDep,
    provider: ProviderDep,
    operator: OperatorDep,
    idempotency_key: IdempotencyKeyDep,
    body: ProductCreate,
) -> ProductRead:
    """A new product at Stripe; POST /prices gives it a price. What plans.yaml sells, `billhook plans apply` makes.

    Needs the scope `operator`.
    """
    row = await products.create(
        session,
        provider,
        name=body.name,
        description=body.description,
        metadata=body.metadata,
        idempotency_key=idempotency_key,
        actor=operator.actor,
    )
    return ProductRead.of(row)


@router.get("", responses={404: {"description": "`product_not_found`: as `starting_after`"}})
async def list_products(
    *,
    session: SessionDep,
    _operator: OperatorDep,
    page: PageDep,
    active: Annotated[bool | None, Query(description="Only those on sale, or only archived ones")] = None,
) -> list[ProductRead]:
    """Newest first. Needs the scope `operator`."""
    rows = await products.list_page(session, active=active, limit=page.limit, starting_after=page.starting_after)
    return [ProductRead.of(row) for row in page.cut(rows, lambda row: row.stripe_id)]


@router.get("/{product_id}", responses=_MISSING)
async def get_product(session: SessionDep, _operator: OperatorDep, product_id: IdPath) -> ProductRead:
    """One of them. Needs the scope `operator`."""
    return ProductRead.of(await products.get(session, product_id))


@router.patch("/{product_id}", responses=_CHANGED)
async def update_product(
    *,
    session: SessionDep,
    provider: ProviderDep,
    operator: OperatorDep,
    idempotency_key: IdempotencyKeyDep,
    product_id: IdPath,
    body: ProductUpdate,
) -> ProductRead:
    """Change how a product is shown, or whether it is on sale. Needs the scope `operator`.

    What plans.yaml says of a product, `billhook plans apply` puts back.
    """
    row = await products.change(
        session,
        provider,
        product_id,
        name=body.name,
        description=body.description,
        active=body.active,
        metadata=body.metadata,
        idempotency_key=idempotency_key,
        actor=operator.actor,
    )
    return ProductRead.of(row)


@router.delete("/{product_id}", responses=_CHANGED)
async def archive_product(
    *,
    session: SessionDep,
    provider: ProviderDep,
    operator: OperatorDep,
    idempotency_key: IdempotencyKeyDep,
    product_id: IdPath,
) -> ProductRead:
    """Archive a product (`active` becomes false): it stays, with its prices and subscribers, but nobody new can buy it.

    Stripe deletes no product that has prices. Needs the scope `operator`.
    """
    row = await products.change(
        session, provider, product_id, active=False, idempotency_key=idempotency_key, actor=operator.actor
    )
    return ProductRead.of(row)
