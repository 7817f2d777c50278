"""Customers: for backends that make and change them, for operators who erase them, and for users themselves."""

from typing import Annotated, Any, Literal, Self, cast

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field, StringConstraints, field_validator, model_validator
from typing_extensions import override

from app import models
from app.api import problems
from app.api.caching import never_stored
from app.api.deps import (
    USER_MEANT,
    ActorDep,
    IdempotencyKeyDep,
    OperatorDep,
    ProviderDep,
    ReadUserDep,
    SessionDep,
    SessionsDep,
    WriteUserDep,
)
from app.api.paging import PageDep
from app.api.schemas import Input, Output
from app.api.tax_ids import CHANGED, MISSING, IdPath, ReadDep, TaxIdCreate, WriteDep
from app.provider import customer_objects
from app.services import customers, exports
from app.services.customers import USER_METADATA, Buyer
from app.worker import erasing

router = APIRouter(tags=["Customers"])

# Stripe's own limits (docs.stripe.com/api/metadata, docs.stripe.com/api/customers/create).
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=40, pattern=r"^[^\[\]]+$")]
MetadataValue = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Email = Annotated[str, StringConstraints(max_length=512, pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Phone = Annotated[str, StringConstraints(min_length=1, max_length=20)]


class Address(Input):
    """As Stripe prints it on invoices. It is kept by Stripe alone."""

    line1: str | None = Field(default=None, max_length=500, description="Street and number")
    line2: str | None = Field(default=None, max_length=500, description="Flat, floor, building")
    city: str | None = Field(default=None, max_length=500, description="Town")
    state: str | None = Field(default=None, max_length=500, description="State, province or county")
    postal_code: str | None = Field(default=None, max_length=100, description="Postal code")
    country: str | None = Field(default=None, pattern="^[A-Z]{2}$", description="ISO 3166-1 alpha-2")

    def told(self) -> customer_objects.Address:
        return cast("customer_objects.Address", self.model_dump(exclude_none=True))


class CustomerCreate(Input):
    """Whose customer it is: `user_id`, or `oauth_provider` and `external_id`, which make `{provider}:{id}` of it."""

    user_id: str | None = Field(default=None, min_length=1, max_length=255, description="The product's id of the user")
    oauth_provider: str | None = Field(
        default=None, pattern="^[a-z0-9_.-]{1,50}$", description="Who knows the user", examples=["github"]
    )
    external_id: str | None = Field(default=None, min_length=1, max_length=200, description="As whom, there")
    email: Email | None = Field(default=None, description="Where Stripe sends receipts and invoices")
    name: Name | None = Field(default=None, description="As invoices address them")
    phone: Phone | None = Field(default=None, description="Kept by Stripe alone")
    address: Address | None = Field(default=None, description="Where they are; for taxes, too")
    metadata: dict[MetadataKey, MetadataValue] = Field(default={}, max_length=49, description="Whatever you like")
    tax_ids: list[TaxIdCreate] = Field(default=[], max_length=5, description="Shown on their invoices")

    @field_validator("metadata")
    @classmethod
    def _leaves_ours(cls, metadata: dict[str, str]) -> dict[str, str]:
        return _leaves_ours(metadata)

    @model_validator(mode="after")
    def _says_whose(self) -> Self:
        joined = self.oauth_provider is not None, self.external_id is not None
        if (self.user_id is None) != all(joined) or any(joined) != all(joined):
            raise ValueError("Send either user_id, or oauth_provider and external_id")
        return self

    @property
    def user(self) -> str:
        return self.user_id or customers.joined_user_id(str(self.oauth_provider), str(self.external_id))


class OwnCustomerUpdate(Input):
    """What is not given stays; null takes it away."""

    email: Email | None = Field(default=None, description="Where Stripe sends receipts and invoices")
    name: Name | None = Field(default=None, description="As invoices address them")

    def changes(self) -> customer_objects.CustomerChanges:
        return cast("customer_objects.CustomerChanges", self.model_dump(exclude_unset=True))


class CustomerUpdate(OwnCustomerUpdate):
    """What is not given stays; null takes it away. `metadata` is merged, and a key with null is removed."""

    phone: Phone | None = Field(default=None, description="Kept by Stripe alone")
    address: Address | None = Field(default=None, description="Replaces the one there is")
    metadata: dict[MetadataKey, MetadataValue | None] = Field(
        default={}, max_length=49, description="Keys to set, and with null to remove"
    )
    default_payment_method: str | None = Field(
        default=None, max_length=255, description="One of theirs; what subscriptions without one of their own charge"
    )

    @field_validator("metadata")
    @classmethod
    def _leaves_ours(cls, metadata: dict[str, str]) -> dict[str, str]:
        return _leaves_ours(metadata)

    @field_validator("default_payment_method")
    @classmethod
    def _is_one(cls, method: str | None) -> str:
        if method is None:
            raise ValueError("A default can be replaced, but not taken away")
        return method

    @override
    def changes(self) -> customer_objects.CustomerChanges:
        found = super().changes()
        if self.address is not None:
            found["address"] = self.address.told()
        return found


def _leaves_ours(metadata: dict[str, str]) -> dict[str, str]:
    if USER_METADATA in metadata:
        raise ValueError(f"{USER_METADATA} says whose customer it is, and is set by Billhook")
    return metadata


class CustomerRead(Output):
    """As our own tables have it. Times are unix seconds."""

    id: str = Field(description="Stripe's id", examples=["cus_QxYz"])
    user_id: str | None = Field(description="The product's id of the user; null for customers made elsewhere")
    email: str | None = Field(description="Where Stripe sends receipts and invoices")
    name: str | None = Field(description="As invoices address them")
    metadata: dict[str, str] = Field(description="As at Stripe, with the `user_id` that Billhook put there")
    default_payment_method: str | None = Field(description="Stripe's id of it")
    created: int = Field(description="When Stripe's customer was made")
    deleted: bool = Field(description="Whether Stripe has deleted it")
    erased_at: int | None = Field(description="When it was asked to be erased")

    @classmethod
    def of(cls, row: models.Customer) -> "CustomerRead":
        return cls(
            id=row.stripe_id,
            user_id=row.user_id,
            email=row.email,
            name=row.name,
            metadata=row.stripe_metadata,
            default_payment_method=row.default_payment_method,
            created=row.created,
            deleted=row.deleted,
            erased_at=row.erased_at,
        )


class CustomerErased(Output):
    id: str = Field(description="Stripe's id")
    deleted: Literal[True] = Field(default=True, description="It is gone at Stripe, too")
    erased_at: int = Field(description="When that was first asked for, unix seconds")


class Export(Output):
    """Everything held about a person: an array of rows for each table that has any of theirs."""

    exported_at: int = Field(description="Unix seconds")
    customers: list[dict[str, Any]] = Field(description="Their customers, former ones too; the other tables follow")


EXPORTED: dict[int | str, dict[str, Any]] = {**MISSING, 200: {"model": Export, "description": "The document"}}


@router.post(
    "/customers",
    status_code=201,
    responses={
        200: {"model": CustomerRead, "description": "There was one already, and it is as it was"},
        409: {"description": "`customer_in_progress`: somebody is making it; can be retried"},
        **problems.FROM_STRIPE,
    },
)
async def create_customer(
    *,
    request: Request,
    response: Response,
    session: SessionDep,
    provider: ProviderDep,
    _key: WriteDep,
    actor: ActorDep,
    body: CustomerCreate,
) -> CustomerRead:
    """The user's customer, made at Stripe unless there is one. One that is there is not changed: PATCH does that.

    Needs the scope `billing:write` or `operator`. A tax id that Stripe refuses (422) does not take the customer back.
    """
    request.scope[USER_MEANT] = body.user
    details = customer_objects.CustomerChanges()
    if body.phone is not None:
        details["phone"] = body.phone
    if body.address is not None:
        details["address"] = body.address.told()
    if body.metadata:
        details["metadata"] = body.metadata
    row, made = await customers.ensure(
        session,
        provider,
        Buyer(user_id=body.user, email=body.email, name=body.name),
        actor=actor,
        details=details,
        tax_ids=[(tax_id.type, tax_id.value) for tax_id in body.tax_ids],
    )
    if not made:
        response.status_code = 200
    return CustomerRead.of(row)


@router.get("/customers", responses={404: {"description": "`customer_not_found`: as `starting_after`"}})
async def list_customers(
    session: SessionDep,
    _key: ReadDep,
    page: PageDep,
    email: Annotated[
        str | None, Query(min_length=1, max_length=512, description="Only with this address, however capitalised")
    ] = None,
    user_id: Annotated[str | None, Query(min_length=1, max_length=255, description="Only this user's")] = None,
) -> list[CustomerRead]:
    """Those that are not deleted, newest first. Needs the scope `billing:read` or `operator`."""
    rows = await customers.list_living(
        session, email=email, user_id=user_id, limit=page.limit, starting_after=page.starting_after
    )
    return [CustomerRead.of(row) for row in page.cut(rows, lambda row: row.stripe_id)]


@router.get("/customers/{id}", responses=MISSING)
async def get_customer(session: SessionDep, _key: ReadDep, id: IdPath) -> CustomerRead:
    """One customer; also a deleted one, by Stripe's id. Needs the scope `billing:read` or `operator`."""
    return CustomerRead.of(await customers.get(session, id))


@router.patch("/customers/{id}", responses=CHANGED)
async def update_customer(
    *,
    request: Request,
    session: SessionDep,
    provider: ProviderDep,
    _key: WriteDep,
    actor: ActorDep,
    idempotency_key: IdempotencyKeyDep,
    id: IdPath,
    body: CustomerUpdate,
) -> CustomerRead:
    """Change what is given. Needs the scope `billing:write` or `operator`."""
    row = await customers.get_living(session, id)
    request.scope[USER_MEANT] = row.user_id or row.stripe_id
    row = await customers.change(session, provider, row, body.changes(), idempotency_key=idempotency_key, actor=actor)
    return CustomerRead.of(row)


@router.delete(
    "/customers/{id}",
    responses={
        **MISSING,
        409: {"description": "`has_live_subscription`; `idempotency_key_in_use` can be retried"},
        **problems.FROM_STRIPE,
    },
)
async def erase_customer(
    sessions: SessionsDep,
    provider: ProviderDep,
    _operator: OperatorDep,
    actor: ActorDep,
    id: IdPath,
    *,
    cancel_subscriptions: Annotated[
        bool, Query(description="Whether live subscriptions may be ended, at once and without refund")
    ] = False,
) -> CustomerErased:
    """Delete the customer at Stripe and take everything personal out of what is here, for good.

    Stripe cancels the subscriptions of a customer it deletes: while one lives this is refused, unless it is wanted.
    Amounts, dates and Stripe's ids stay. Doing it twice is no error; once begun, it gets done whatever comes between.
    The user's id no longer leads here afterwards, Stripe's does. Needs the scope `operator`.
    """
    row = await erasing.erase(sessions, provider, id, cancel_subscriptions=cancel_subscriptions, actor=actor)
    return CustomerErased(id=row.stripe_id, erased_at=row.erased_at or 0)


@router.get(
    "/customers/{id}/export",
    response_model=Export,
    responses=EXPORTED,
    dependencies=[Depends(never_stored)],
)
async def export_customer(session: SessionDep, sessions: SessionsDep, _operator: OperatorDep, id: IdPath) -> Response:
    """Everything held about the person, former customers included, as one document. Needs the scope `operator`."""
    return _document(sessions, await exports.find(session, id))


def _document(sessions: SessionsDep, person: exports.Person) -> StreamingResponse:
    headers = {"Cache-Control": "no-store", "Content-Disposition": 'attachment; filename="customer.json"'}
    return StreamingResponse(exports.pieces(sessions, person), media_type="application/json", headers=headers)


@router.get("/customer", responses={404: {"description": "`customer_not_found`: before the first purchase"}})
async def get_own_customer(session: SessionDep, user: ReadUserDep) -> CustomerRead:
    """The caller's own customer."""
    return CustomerRead.of(await customers.get_for_user(session, user.user_id))


@router.patch("/customer", responses=CHANGED)
async def update_own_customer(
    *,
    session: SessionDep,
    provider: ProviderDep,
    user: WriteUserDep,
    actor: ActorDep,
    idempotency_key: IdempotencyKeyDep,
    body: OwnCustomerUpdate,
) -> CustomerRead:
    """Change the address that receipts go to, and the name on invoices."""
    row = await customers.get_for_user(session, user.user_id)
    row = await customers.change(session, provider, row, body.changes(), idempotency_key=idempotency_key, actor=actor)
    return CustomerRead.of(row)


@router.get(
    "/customer/export",
    response_model=Export,
    responses=EXPORTED,
    dependencies=[Depends(never_stored)],
)
async def export_own_customer(session: SessionDep, sessions: SessionsDep, user: ReadUserDep) -> Response:
    """Everything held about the caller, as one document."""
    return _document(sessions, await exports.find_own(session, user.user_id))
