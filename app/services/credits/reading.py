"""Credit accounts as they are read: what is left, of which grants, and how it came about.

Each is one statement, for what is left of a grant may stand in its own row or in its account's. What has expired counts
no more, though the books may still have it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, case, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFoundError
from app.models import CreditAccount, CreditGrant, CreditTransfer
from app.services.credits.accounts import Balance

_REMAINING = CreditGrant.remaining + case((CreditAccount.hand_grant == CreditGrant.id, CreditAccount.hand), else_=0)


class AccountState(NamedTuple):
    """An account, and what it has now."""

    account: CreditAccount
    balance: Balance


class GrantState(NamedTuple):
    """A grant, and how much is left of it."""

    grant: CreditGrant
    remaining: int


async def get_account(session: AsyncSession, account_id: UUID, *, now: int) -> AccountState:
    """Raises NotFoundError."""
    if (state := await _look(session, CreditAccount.id == account_id, now=now)) is None:
        raise NotFoundError("There is no such account.", code="account_not_found")
    return state


async def account_of_user(session: AsyncSession, user_id: str, *, now: int) -> AccountState | None:
    """None where the user has none."""
    return await _look(session, CreditAccount.user_id == user_id, now=now)


async def _look(session: AsyncSession, whose: ColumnElement[bool], *, now: int) -> AccountState | None:
    lost = and_(CreditGrant.account_id == CreditAccount.id, CreditGrant.open, CreditGrant.expires_at <= now)
    found = await session.execute(
        select(CreditAccount, CreditGrant.book, _REMAINING)
        .outerjoin(CreditGrant, lost)
        .where(whose)
        .execution_options(populate_existing=True)
    )
    rows = found.all()
    if not rows:
        return None
    account: CreditAccount = rows[0][0]
    gone = {book: sum(left for _, where, left in rows if where == book) for book in ("free", "paid")}
    has = replace(Balance.of(account), free=account.free - gone["free"], paid=account.paid - gone["paid"])
    return AccountState(account, has)


async def get_grant(session: AsyncSession, grant_id: UUID, *, now: int) -> GrantState:
    """One that is there."""
    found = await session.execute(_grants(now).where(CreditGrant.id == grant_id))
    return GrantState(*found.one())


async def list_grants(
    session: AsyncSession, user_id: str, *, limit: int, starting_after: UUID | None, now: int
) -> Sequence[GrantState]:
    """The user's, newest first, up to `limit` + 1 of them. Raises NotFoundError for an unknown `starting_after`."""
    page = _grants(now).where(CreditAccount.user_id == user_id)
    if starting_after is not None:
        found = await session.execute(page.where(CreditGrant.id == starting_after))
        if (last := found.scalar()) is None:
            raise NotFoundError("There is no such grant.", code="grant_not_found", param="starting_after")
        page = page.where(tuple_(CreditGrant.created, CreditGrant.id) < (last.created, last.id))
    rows = await session.execute(page.order_by(CreditGrant.created.desc(), CreditGrant.id.desc()).limit(limit + 1))
    return [GrantState(*row) for row in rows]


async def list_transfers(
    session: AsyncSession, user_id: str, *, limit: int, starting_after: int | None
) -> Sequence[CreditTransfer]:
    """The user's, newest first, up to `limit` + 1 of them. Raises NotFoundError for an unknown `starting_after`."""
    account = select(CreditAccount.id).where(CreditAccount.user_id == user_id).scalar_subquery()
    page = select(CreditTransfer).where(CreditTransfer.account_id == account)
    if starting_after is not None:
        if await session.scalar(page.where(CreditTransfer.id == starting_after)) is None:
            raise NotFoundError("There is no such transfer.", code="transfer_not_found", param="starting_after")
        page = page.where(CreditTransfer.id < starting_after)
    return (await session.scalars(page.order_by(CreditTransfer.id.desc()).limit(limit + 1))).all()


def _grants(now: int) -> Select[CreditGrant, int]:
    lasting = or_(CreditGrant.expires_at.is_(None), CreditGrant.expires_at > now)
    return (
        select(CreditGrant, case((lasting, _REMAINING), else_=0))
        .join(CreditAccount, CreditAccount.id == CreditGrant.account_id)
        .execution_options(populate_existing=True)
    )
