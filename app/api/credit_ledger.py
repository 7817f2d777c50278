"""The ledger of prepaid credits, and what operators enter in it."""

from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from pydantic import Field, field_validator

from app import models
from app.api.credit_schemas import Identified, identify
from app.api.deps import (
    USER_MEANT,
    CatalogDep,
    OperatorDep,
    RequiredIdempotencyKeyDep,
    SessionDep,
    SessionsDep,
    user_with,
)
from app.api.paging import PageDep
from app.api.schemas import Output
from app.db import transaction
from app.errors import InvalidRequestError
from app.services.credits import accounts, grants, reading
from app.services.credits.charges import MAX_QUANTITY
from app.services.credits.grants import Adjustment
from app.services.credits.reading import GrantState
from app.services.identity import User
from app.values import unix_now

router = APIRouter(prefix="/credits", tags=["Credits"])

LARGEST_ID = 2**63 - 1

ReaderDep = Annotated[User, Depends(user_with("credits:read"))]
Reason = Annotated[str, Field(min_length=1, max_length=500, description="In the ledger, for ever; the user reads it")]

_ENTERED: dict[int | str, Any] = {
    404: {"description": "`account_not_found`, `customer_not_found`"},
    409: {"description": "`account_closed`; or `idempotency_key_in_use`"},
}


class TransferRead(Output):
    """Uses moved from one book to another."""

    id: int = Field(description="Later ones have larger ids")
    kind: str = Field(
        description="`grant`, `charge`, `hold`, `capture`, `release`, `expire`, `claw_back`, `settle`, `restore` or "
        "`adjust`"
    )
    source: str = Field(
        description="The user's books are `free`, `paid`, `held` and `owed`, a debt; ours are `issued`, `consumed`, "
        "`expired` and `revoked`"
    )
    destination: str = Field(description="Where they went")
    amount: int = Field(description="How many uses")
    grant_id: UUID | None = Field(description="The grant they are of")
    charge_id: UUID | None = Field(description="The charge that moved them")
    purchase_id: UUID | None = Field(description="The purchase that brought or lost them")
    reason: str | None = Field(description="What the operator said who entered it")
    balance_after: int = Field(description="How many could be spent then")
    created_at: int = Field(description="When, unix seconds")

    @classmethod
    def of(cls, row: models.CreditTransfer) -> Self:
        return cls(
            id=row.id,
            kind=row.kind,
            source=row.source,
            destination=row.destination,
            amount=row.amount,
            grant_id=row.grant_id,
            charge_id=row.charge_id,
            purchase_id=row.purchase_id,
            reason=row.reason,
            balance_after=row.balance_after,
            created_at=row.created,
        )


class GrantRead(Output):
    """Uses that were given or bought together. Times are unix seconds."""

    id: UUID = Field(description="Its id")
    account_id: UUID = Field(description="To whom")
    book: str = Field(description="`free` or `paid`; free ones are spent first")
    uses: int = Field(description="How many")
    remaining: int = Field(description="How many are left of them")
    expires_at: int | None = Field(description="When what is left of them is lost; null: never")
    purchase_id: UUID | None = Field(description="The purchase that brought them")
    reason: str | None = Field(description="What the operator said who gave them")
    created_at: int = Field(description="When")

    @classmethod
    def of(cls, state: GrantState) -> Self:
        grant, remaining = state
        return cls(
            id=grant.id,
            account_id=grant.account_id,
            book=grant.book,
            uses=grant.amount,
            remaining=remaining,
            expires_at=grant.expires_at,
            purchase_id=grant.purchase_id,
            reason=grant.reason,
            created_at=grant.created,
        )


class GrantCreate(Identified):
    """Uses for a user, who has an account from then on."""

    uses: int = Field(ge=1, le=MAX_QUANTITY, description="How many", examples=[50])
    expires_at: int | None = Field(
        default=None,
        ge=0,
        le=LARGEST_ID,
        description="When what is left of them is lost, unix seconds; never unless said",
    )
    reason: Reason


class AdjustmentCreate(Identified):
    """A correction of what a user has."""

    uses: int = Field(
        ge=-MAX_QUANTITY, le=MAX_QUANTITY, description="How many to give; negative, to take away", examples=[-5]
    )
    reason: Reason

    @field_validator("uses")
    @classmethod
    def _moves_something(cls, uses: int) -> int:
        if not uses:
            raise ValueError("An adjustment gives or takes away")
        return uses


class AdjustmentRead(Output):
    """What was entered, and what it came to."""

    account_id: UUID = Field(description="Whose account")
    uses: int = Field(description="How many were given or, negative, taken away")
    reason: str = Field(description="Why")
    available: int = Field(description="How many can be spent now")
    owed: int = Field(description="How many are owed now")
    created_at: int = Field(description="When it was entered, unix seconds")

    @classmethod
    def of(cls, account_id: UUID, done: Adjustment) -> Self:
        return cls(
            account_id=account_id,
            uses=done.uses,
            reason=done.reason,
            available=done.balance.available,
            owed=done.balance.owed,
            created_at=done.created,
        )


@router.get("/ledger", responses={404: {"description": "`user_not_found`; `transfer_not_found`: as `starting_after`"}})
async def list_credit_transfers(session: SessionDep, user: ReaderDep, page: PageDep) -> list[TransferRead]:
    """Every transfer of the user's uses, newest first. Service keys need the scope `credits:read`."""
    after = page.starting_after
    if after is not None and not (after.isascii() and after.isdecimal() and int(after) <= LARGEST_ID):
        raise InvalidRequestError("The id of a transfer is a number.", param="starting_after")
    rows = await reading.list_transfers(
        session, user.user_id, limit=page.limit, starting_after=None if after is None else int(after)
    )
    return [TransferRead.of(row) for row in page.cut(rows, lambda row: str(row.id))]


@router.get("/grants", responses={404: {"description": "`user_not_found`; `grant_not_found`: as `starting_after`"}})
async def list_credit_grants(session: SessionDep, user: ReaderDep, page: PageDep) -> list[GrantRead]:
    """What the user was given and bought, newest first. Service keys need the scope `credits:read`."""
    rows = await reading.list_grants(
        session,
        user.user_id,
        limit=page.limit,
        starting_after=_grant_id(page.starting_after),
        now=unix_now(),
    )
    return [GrantRead.of(row) for row in page.cut(rows, lambda row: str(row.grant.id))]


@router.post("/grants", status_code=201, responses=_ENTERED)
async def create_credit_grant(
    *,
    sessions: SessionsDep,
    catalog: CatalogDep,
    request: Request,
    operator: OperatorDep,
    key: RequiredIdempotencyKeyDep,
    body: GrantCreate,
) -> GrantRead:
    """Give a user uses, once per Idempotency-Key for ever; what they owe is settled first.

    Needs the scope `operator`.
    """
    now = unix_now()
    # On its own: the grant's audit entry names the account, and has to be written while no account is locked.
    async with transaction(sessions) as session:
        identity = await identify(session, operator, body, "operator")
        account, _ = await accounts.ensure(session, catalog.credits, identity, now)
        account_id = account.id
    request.scope[USER_MEANT] = identity.user_id
    async with transaction(sessions) as session:
        given = await grants.grant(
            session,
            catalog.credits,
            account_id,
            uses=body.uses,
            expires_at=body.expires_at,
            reason=body.reason,
            key=key,
            actor=operator.actor,
            now=now,
        )
        return GrantRead.of(given)


@router.post("/adjustments", status_code=201, responses=_ENTERED)
async def create_credit_adjustment(
    *,
    session: SessionDep,
    catalog: CatalogDep,
    request: Request,
    operator: OperatorDep,
    key: RequiredIdempotencyKeyDep,
    body: AdjustmentCreate,
) -> AdjustmentRead:
    """Give a user uses or take some away, once per Idempotency-Key for ever. Needs the scope `operator`.

    422 `insufficient_credits` where fewer are available than are to be taken away.
    """
    identity = await identify(session, operator, body, "operator")
    request.scope[USER_MEANT] = identity.user_id
    account = await accounts.get(session, user_id=identity.user_id)
    done = await grants.adjust(
        session,
        catalog.credits,
        account.id,
        uses=body.uses,
        reason=body.reason,
        key=key,
        actor=operator.actor,
        now=unix_now(),
    )
    return AdjustmentRead.of(account.id, done)


def _grant_id(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        raise InvalidRequestError("The id of a grant is a UUID.", param="starting_after") from None
