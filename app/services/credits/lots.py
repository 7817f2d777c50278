"""Lots: grants as they are spent, and how they are read and written."""

from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, Table, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import CreditGrant

GRANTS: Table = CreditGrant.__table__  # type: ignore[assignment]  # a mapped class says no more than FromClause

Spendable = Literal["free", "paid"]


@dataclass(slots=True, eq=False)
class Lot:
    """A grant, as it is spent; `remaining` is all that is left of it, in hand or not."""

    id: UUID
    book: Spendable
    amount: int
    remaining: int
    expires_at: int | None
    purchase_id: UUID | None
    reason: str | None
    created: int
    new: bool = False
    touched: bool = False

    @property
    def turn(self) -> tuple[bool, bool, int, int, UUID]:
        """Free first, then what expires first, then the oldest."""
        return self.book == "paid", self.expires_at is None, self.expires_at or 0, self.created, self.id

    def is_over(self, now: int) -> bool:
        return self.expires_at is not None and self.expires_at <= now


async def load(session: AsyncSession, which: ColumnElement[bool]) -> dict[UUID, Lot]:
    found = await session.execute(select(GRANTS).where(which))
    return {
        row.id: Lot(
            id=row.id,
            book=row.book,
            amount=row.amount,
            remaining=row.remaining,
            expires_at=row.expires_at,
            purchase_id=row.purchase_id,
            reason=row.reason,
            created=row.created,
        )
        for row in found
    }


def state(lot: Lot, *, in_hand: bool) -> dict[str, Any]:
    return {"remaining": 0 if in_hand else lot.remaining, "open": lot.remaining > 0}


def values(lot: Lot, *, in_hand: bool) -> dict[str, Any]:
    fixed = ("id", "book", "amount", "expires_at", "purchase_id", "reason", "created")
    return {name: getattr(lot, name) for name in fixed} | state(lot, in_hand=in_hand)
