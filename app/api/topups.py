"""Automatic top-ups of credit accounts: which pack is bought by itself, and when."""

from typing import Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import Field

from app import models
from app.api.credit_schemas import AccountIdPath, get_account
from app.api.deps import USER_MEANT, CallerDep, CatalogDep, SessionDep
from app.api.schemas import Input, Output
from app.services.credits.charges import MAX_QUANTITY
from app.services.topups import setting, tries
from app.values import unix_now

router = APIRouter(prefix="/accounts/{id}/topup", tags=["Credits"])

_MISSING: dict[int | str, Any] = {
    404: {"description": "`topup_not_found`: none is set; `account_not_found`, also for another user's"},
    409: {"description": "`account_ambiguous`: it is one account's id and another's user"},
}


class TopupUpdate(Input):
    """What is to be bought, and when."""

    pack: str = Field(max_length=40, description="The pack's key; its price is that of the day it is bought")
    threshold: int = Field(
        ge=0,
        le=MAX_QUANTITY,
        description="It is bought when no more than so many uses are left; less than the pack has",
    )


class TopupRead(Output):
    """What is bought by itself, and how the latest tries went."""

    pack: str = Field(description="The pack's key", examples=["starter"])
    threshold: int = Field(description="It is bought when no more than so many uses are left")
    breaker: Literal["closed", "open"] = Field(
        description="`open` after three declines in a row: nothing is tried before another method would be charged"
    )
    failures: int = Field(description="Declines in a row")
    failure_code: str | None = Field(
        description="Why it was declined last, in Stripe's words; null once it was paid",
        examples=["insufficient_funds"],
    )
    due_at: int | None = Field(description="When it is tried next, in unix seconds; null while nothing is due")
    purchase_id: UUID | None = Field(description="The purchase that is under way")

    @classmethod
    def of(cls, row: models.CreditTopup) -> Self:
        return cls(
            pack=row.pack,
            threshold=row.threshold or 0,  # never None of what is set
            breaker="open" if tries.is_open(row) else "closed",
            failures=row.failures,
            failure_code=row.failure_code,
            due_at=row.due_at,
            purchase_id=row.purchase_id,
        )


@router.get("", responses=_MISSING)
async def get_topup(session: SessionDep, caller: CallerDep, id: AccountIdPath) -> TopupRead:
    """What is bought by itself: for the user's own account, or any with a service key.

    Its scope must be `credits:read` or `credits:write`.
    """
    account = await get_account(session, caller, id, "credits:read", "credits:write")
    return TopupRead.of(await setting.get(session, account.id))


@router.put(
    "",
    responses={
        404: {"description": "`account_not_found`, also for another user's; `pack_not_found`"},
        409: {
            "description": "`no_payment_method`: there is none to pay with; `account_closed`; "
            "or `idempotency_key_in_use`"
        },
    },
)
async def set_topup(
    *,
    session: SessionDep,
    catalog: CatalogDep,
    request: Request,
    caller: CallerDep,
    id: AccountIdPath,
    body: TopupUpdate,
) -> TopupRead:
    """Have a pack bought whenever little is left; at once, if little is left now.

    For the user's own account, or any with a service key of scope `credits:write`. It is paid with the default payment
    method, or without one with that which was kept last. The customer is not there when it is bought: a bank that
    insists on it declines, and so may others. After each decline it waits longer. While uses are owed, or a purchase is
    disputed, nothing is bought.
    """
    account = await get_account(session, caller, id, "credits:write")
    request.scope[USER_MEANT] = account.user_id
    topup = await setting.put(
        session,
        catalog,
        account,
        pack=body.pack,
        threshold=body.threshold,
        actor=caller.actor,
        now=unix_now(),
    )
    return TopupRead.of(topup)


@router.delete(
    "",
    status_code=204,
    responses={**_MISSING, 409: {"description": "`idempotency_key_in_use` can be retried"}},
)
async def remove_topup(
    *, session: SessionDep, catalog: CatalogDep, request: Request, caller: CallerDep, id: AccountIdPath
) -> None:
    """Buy nothing by itself any more; a purchase that is under way is finished. Callers are as for PUT."""
    account = await get_account(session, caller, id, "credits:write")
    request.scope[USER_MEANT] = account.user_id
    await setting.remove(session, catalog.credits, account, actor=caller.actor, now=unix_now())
