"""Holds: uses set aside by a charge, and spent, given back, or lapsed later; each just once."""

from collections.abc import Sequence
from typing import NoReturn
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.models import CreditCharge
from app.services.catalog import Credits
from app.services.credits.book import Book, open_book


async def get(session: AsyncSession, charge_id: UUID) -> CreditCharge:
    """A charge, held or not, as it is now. Raises NotFoundError."""
    charge = await session.scalar(
        select(CreditCharge).where(CreditCharge.id == charge_id).execution_options(populate_existing=True)
    )
    if charge is None:
        raise NotFoundError("There is no such charge.", code="charge_not_found")
    return charge


async def capture(
    session: AsyncSession, rules: Credits, *, charge_id: UUID, quantity: int | None, now: int
) -> CreditCharge:
    """Spend what is held, or `quantity` of it: the rest is given back. Whatever became of the funds, this succeeds.

    Once is enough: the same again changes nothing. Raises InvalidRequestError for more than is held, ConflictError for
    a hold that has ended otherwise.
    """
    charge, book = await _open(session, rules, charge_id, now)
    wanted = charge.quantity if quantity is None else quantity
    if wanted > charge.quantity:
        raise InvalidRequestError(f"Only {charge.quantity} are held.", code="more_than_held", param="quantity")
    if charge.status == "captured" and charge.captured == wanted:
        return charge
    if charge.status != "held" or _is_over(charge, now):
        _refuse(charge, now)
    await book.capture(charge, wanted)
    await book.close()
    return charge


async def release(session: AsyncSession, rules: Credits, *, charge_id: UUID, now: int) -> CreditCharge:
    """Give back what is held. Once is enough. Raises ConflictError for what has been captured, or wasn't held."""
    charge, book = await _open(session, rules, charge_id, now)
    if charge.status in {"released", "expired"}:
        return charge
    if charge.status != "held":
        _refuse(charge, now)
    await book.release(charge)
    await book.close()
    return charge


async def lapsed(session: AsyncSession, now: int, *, limit: int) -> Sequence[UUID]:
    """Holds that should have ended by now."""
    found = await session.scalars(
        select(CreditCharge.id)
        .where(CreditCharge.status == "held", CreditCharge.expires_at <= now)
        .order_by(CreditCharge.expires_at)
        .limit(limit)
    )
    return found.all()


async def expire(session: AsyncSession, rules: Credits, *, charge_id: UUID, now: int) -> bool:
    """Give back what a lapsed hold holds; False when somebody was faster."""
    charge, book = await _open(session, rules, charge_id, now)
    if charge.status != "held" or not _is_over(charge, now):
        return False
    await book.release(charge, status="expired")
    await book.close()
    return True


async def _open(session: AsyncSession, rules: Credits, charge_id: UUID, now: int) -> tuple[CreditCharge, Book]:
    """The charge as it is once its account is locked."""
    account_id = (await get(session, charge_id)).account_id
    book = await open_book(session, rules, now, account_id=account_id)
    if book is None:
        raise NotFoundError("There is no such account.", code="account_not_found")
    return await get(session, charge_id), book


def _is_over(charge: CreditCharge, now: int) -> bool:
    return charge.expires_at is not None and charge.expires_at <= now


def _refuse(charge: CreditCharge, now: int) -> NoReturn:
    if charge.expires_at is None:
        raise ConflictError("This charge was not held.", code="charge_not_held")
    state = "expired" if charge.status == "held" and _is_over(charge, now) else charge.status
    raise ConflictError(f"This hold is {state} already.", code=f"hold_{state}")
