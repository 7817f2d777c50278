"""Credit accounts: made, read, suspended."""

from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from app.api.credit_schemas import AccountIdPath, Identified, get_account, identify
from app.api.deps import USER_MEANT, CallerDep, CatalogDep, OperatorDep, SessionDep, SessionsDep, key_with
from app.api.schemas import Input, Output
from app.services.credits import accounts, grants, reading
from app.services.credits.reading import AccountState
from app.services.identity import ServiceKey
from app.values import unix_now
from app.worker import erasing

router = APIRouter(prefix="/accounts", tags=["Credits"])


class AccountUpdate(Input):
    """What an operator may change."""

    status: Literal["active", "suspended"] = Field(
        description="Nothing can be spent from a suspended account; what is held still can"
    )


class AccountRead(Output):
    """Quantities are uses, times are unix seconds."""

    account_id: UUID = Field(description="Its id")
    user_id: str = Field(description="The product's id of the user", examples=["google:user@example.com"])
    oauth_provider: str | None = Field(description="Who knows the user, if it was made so", examples=["google"])
    external_id: str | None = Field(description="As whom, there")
    customer_email: str | None = Field(description="As it was given when the account was made")
    status: str = Field(description="`active`; `suspended`: nothing can be spent; `closed`: the user was erased")
    available: int = Field(description="What can be spent: free and paid uses together")
    free_uses_remaining: int = Field(description="Free uses left")
    credits_remaining: int = Field(description="Paid uses left")
    held: int = Field(description="Uses that are held, to be captured or released")
    owed: int = Field(description="Uses that were taken back after they had been spent; new ones settle them first")
    total_uses: int = Field(description="How many were ever spent")
    created_at: int = Field(description="When it was made")

    @classmethod
    def of(cls, state: AccountState) -> Self:
        account, balance = state
        return cls(
            account_id=account.id,
            user_id=account.user_id,
            oauth_provider=account.oauth_provider,
            external_id=account.external_id,
            customer_email=account.email,
            status=account.status,
            available=balance.available,
            free_uses_remaining=balance.free,
            credits_remaining=balance.paid,
            held=balance.held,
            owed=balance.owed,
            total_uses=balance.used,
            created_at=account.created,
        )


class AccountErased(Output):
    """What is left can be found by this id alone."""

    account_id: UUID = Field(description="Its id; who had nothing but usage has been given one")
    erased: Literal[True] = Field(default=True, description="Nothing says any more whose it was")


@router.post(
    "",
    status_code=201,
    responses={
        200: {"model": AccountRead, "description": "It was there already, and is as it was"},
        404: {"description": "`customer_not_found`: no user has this customer"},
    },
)
async def create_credit_account(
    *,
    session: SessionDep,
    catalog: CatalogDep,
    request: Request,
    response: Response,
    key: Annotated[ServiceKey, Depends(key_with("credits:write"))],
    body: Identified,
) -> AccountRead:
    """The user's account, made with its free uses if there is none. Needs a service key of scope `credits:write`.

    It need not be made first: a charge or a purchase makes it too.
    """
    identity = await identify(session, key, body, "credits:write")
    request.scope[USER_MEANT] = identity.user_id
    now = unix_now()
    account, created = await accounts.ensure(session, catalog.credits, identity, now)
    if not created:
        response.status_code = 200
    return AccountRead.of(await reading.get_account(session, account.id, now=now))


@router.get(
    "/{id}",
    responses={
        404: {"description": "`account_not_found`"},
        409: {"description": "`account_ambiguous`: it is one account's id and another's user"},
    },
)
async def get_credit_account(session: SessionDep, caller: CallerDep, id: AccountIdPath) -> AccountRead:
    """An account and what is left in it: the user's own, or any with a service key.

    Its scope must be `credits:read` or `credits:write`.
    """
    account = await get_account(session, caller, id, "credits:read", "credits:write")
    return AccountRead.of(await reading.get_account(session, account.id, now=unix_now()))


@router.patch(
    "/{id}",
    responses={
        404: {"description": "`account_not_found`"},
        409: {"description": "`account_closed`; or `idempotency_key_in_use`"},
    },
)
async def update_credit_account(
    *, session: SessionDep, request: Request, operator: OperatorDep, id: AccountIdPath, body: AccountUpdate
) -> AccountRead:
    """Suspend it, or let it spend again. Needs the scope `operator`."""
    account = await get_account(session, operator, id, "operator")
    request.scope[USER_MEANT] = account.user_id
    await grants.set_status(session, account.id, body.status, actor=operator.actor)
    return AccountRead.of(await reading.get_account(session, account.id, now=unix_now()))


@router.delete(
    "/{id}",
    responses={
        404: {"description": "`account_not_found`: neither an account nor usage is known"},
        409: {
            "description": "`has_customer`: `DELETE /customers/{id}` erases them; `account_ambiguous`; or"
            " `idempotency_key_in_use`"
        },
    },
)
async def erase_credit_account(sessions: SessionsDep, operator: OperatorDep, id: AccountIdPath) -> AccountErased:
    """Erase a user who has credits or usage but no customer: everything personal goes, for good.

    The account is closed at once; its ledger stays. Doing it twice is no error, by the account's id: the user's no
    longer leads here. Once begun, it gets done whatever comes between. Needs the scope `operator`.
    """
    return AccountErased(account_id=await erasing.erase_account(sessions, id, actor=operator.actor))
