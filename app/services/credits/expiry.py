"""Grants that have run out by themselves: what is left of them is written off."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import CreditGrant
from app.services.catalog import Credits
from app.services.credits.book import open_book


async def due(session: AsyncSession, now: int, *, limit: int) -> Sequence[UUID]:
    """Accounts with grants that should have expired by now, which may be the same account's."""
    found = await session.scalars(
        select(CreditGrant.account_id)
        .where(CreditGrant.open, CreditGrant.expires_at <= now)
        .order_by(CreditGrant.expires_at)
        .limit(limit)
    )
    return list(dict.fromkeys(found))


async def expire(session: AsyncSession, rules: Credits, *, account_id: UUID, now: int) -> int:
    """Write off what has expired of an account's grants; how many uses that were."""
    # To open the books is all it takes.
    if (book := await open_book(session, rules, now, account_id=account_id)) is None:
        return 0
    lapsed: int = sum(entry["amount"] for entry in book.entries)
    await book.close()
    return lapsed
