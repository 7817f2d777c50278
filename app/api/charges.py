"""What becomes of charges: holds captured or released, and any of them read. `POST /charges` is in charges_create."""

from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, Path, Request
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession

from app import models
from app.api.credit_schemas import ChargeRead
from app.api.deps import USER_MEANT, CatalogDep, RequiredIdempotencyKeyDep, SessionDep, key_with
from app.api.schemas import Input
from app.services.credits import accounts, holds
from app.services.credits.charges import MAX_QUANTITY
from app.services.identity import ServiceKey
from app.values import unix_now

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/charges", tags=["Credits"])

ChargeIdPath = Annotated[UUID, Path(description="The charge's id")]
WriterDep = Annotated[ServiceKey, Depends(key_with("credits:write"))]

_MISSING: dict[int | str, Any] = {404: {"description": "`charge_not_found`"}}
_ENDED: dict[int | str, Any] = {
    409: {
        "description": "`hold_captured`, `hold_released`, `hold_expired`: what became of it first; `charge_not_held`: "
        "it was spent at once; or `idempotency_key_in_use`"
    }
}


class CaptureCreate(Input):
    """How much of a hold is spent."""

    quantity: int | None = Field(
        default=None,
        ge=1,
        le=MAX_QUANTITY,
        description="Of what is held, the rest is given back; all of it unless said",
    )


@router.post("/{id}/capture", responses={**_MISSING, **_ENDED})
async def capture_charge(
    *,
    session: SessionDep,
    catalog: CatalogDep,
    request: Request,
    _key: WriterDep,
    _idempotency_key: RequiredIdempotencyKeyDep,
    id: ChargeIdPath,
    body: CaptureCreate | None = None,
) -> ChargeRead:
    """Spend what is held, or some of it. It can't fail for want of uses. Needs a service key of scope `credits:write`.

    Capturing the same quantity again answers the same; another is refused. 422 `more_than_held` for too many.
    """
    quantity, now = None if body is None else body.quantity, unix_now()
    row = await holds.capture(session, catalog.credits, charge_id=id, quantity=quantity, now=now)
    return await _resolved(session, request, row, now)


@router.post("/{id}/release", responses={**_MISSING, **_ENDED})
async def release_charge(
    *,
    session: SessionDep,
    catalog: CatalogDep,
    request: Request,
    _key: WriterDep,
    _idempotency_key: RequiredIdempotencyKeyDep,
    id: ChargeIdPath,
) -> ChargeRead:
    """Give back all that is held; again answers the same. Needs a service key of scope `credits:write`."""
    now = unix_now()
    row = await holds.release(session, catalog.credits, charge_id=id, now=now)
    return await _resolved(session, request, row, now)


@router.get("/{id}", responses=_MISSING)
async def get_charge(
    session: SessionDep,
    _key: Annotated[ServiceKey, Depends(key_with("credits:read", "credits:write"))],
    id: ChargeIdPath,
) -> ChargeRead:
    """One charge as it is now. Needs a service key of scope `credits:read` or `credits:write`."""
    return ChargeRead.of(await holds.get(session, id))


async def _resolved(session: AsyncSession, request: Request, row: models.CreditCharge, now: int) -> ChargeRead:
    if row.resolved_at == now:  # else an earlier request did it
        event = "charge_captured" if row.status == "captured" else "charge_released"
        log.info(event, charge_id=str(row.id), account_id=str(row.account_id), quantity=row.captured)
    request.scope[USER_MEANT] = (await accounts.get(session, account_id=row.account_id)).user_id
    return ChargeRead.of(row)
