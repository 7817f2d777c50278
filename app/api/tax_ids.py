"""Customers' tax ids, which Stripe keeps, prints on invoices and verifies."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from pydantic import Field

from app import models
from app.api import problems
from app.api.deps import USER_MEANT, IdempotencyKeyDep, ProviderDep, SessionDep, key_with
from app.api.paging import MAX_ID_LENGTH
from app.api.schemas import Input, Output
from app.services import customers
from app.services.identity import ServiceKey

router = APIRouter(prefix="/customers/{id}/tax-ids", tags=["Customers"])

ReadDep = Annotated[ServiceKey, Depends(key_with("billing:read", "operator"))]
WriteDep = Annotated[ServiceKey, Depends(key_with("billing:write", "operator"))]
IdPath = Annotated[str, Path(max_length=MAX_ID_LENGTH, description="Stripe's id of the customer, or the user's id")]

MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "`customer_not_found`"}}
CHANGED: dict[int | str, dict[str, Any]] = {
    **MISSING,
    409: {"description": "`customer_deleted`; `idempotency_key_in_use` can be retried"},
    **problems.FROM_STRIPE,
}


async def get_meant(request: Request, session: SessionDep, _key: WriteDep, id: IdPath) -> models.Customer:
    """The customer a path names, who must live. What is done with them is told in their timeline."""
    customer = await customers.get_living(session, id)
    request.scope[USER_MEANT] = customer.user_id or customer.stripe_id
    return customer


MeantDep = Annotated[models.Customer, Depends(get_meant)]


class TaxIdCreate(Input):
    type: str = Field(
        pattern="^[a-z]{2}_[a-z0-9_]{2,30}$", description="Stripe's name of the kind", examples=["eu_vat"]
    )
    value: str = Field(min_length=1, max_length=100, description="The number", examples=["DE123456789"])


class TaxIdRead(Output):
    """Kept by Stripe, which is asked for it."""

    id: str = Field(description="Stripe's id", examples=["txi_1QxYz"])
    type: str = Field(description="`eu_vat`, `gb_vat`, `us_ein`, …")
    value: str = Field(description="The number")
    country: str | None = Field(description="ISO 3166-1 alpha-2")
    verification: str | None = Field(description="`pending`, `verified`, `unverified` or `unavailable`")
    created: int = Field(description="Unix seconds")


@router.get("", responses={**MISSING, **problems.FROM_STRIPE})
async def list_tax_ids(session: SessionDep, provider: ProviderDep, _key: ReadDep, id: IdPath) -> list[TaxIdRead]:
    """All of them, newest first, as Stripe has them now. Needs the scope `billing:read` or `operator`."""
    found = await customers.list_tax_ids(session, provider, await customers.get(session, id))
    return [TaxIdRead.model_validate(tax_id) for tax_id in found]


@router.post("", status_code=201, responses=CHANGED)
async def create_tax_id(
    *,
    session: SessionDep,
    provider: ProviderDep,
    customer: MeantDep,
    idempotency_key: IdempotencyKeyDep,
    body: TaxIdCreate,
) -> TaxIdRead:
    """Add one, at most five in all. Needs the scope `billing:write` or `operator`."""
    made = await customers.create_tax_id(
        session, provider, customer, type=body.type, value=body.value, idempotency_key=idempotency_key
    )
    return TaxIdRead.model_validate(made)


@router.delete("/{tax_id}", status_code=204, responses=CHANGED)
async def delete_tax_id(
    session: SessionDep,
    provider: ProviderDep,
    customer: MeantDep,
    tax_id: Annotated[str, Path(max_length=MAX_ID_LENGTH, description="Stripe's id of the tax id")],
) -> None:
    """Remove one from the invoices to come. Needs the scope `billing:write` or `operator`."""
    await customers.delete_tax_id(session, provider, customer, tax_id)
