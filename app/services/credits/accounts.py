"""Credit accounts: one per user, made with its free uses the first time somebody asks for it."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Self
from uuid import UUID, uuid4

from sqlalchemy import or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import BillingError, ConflictError, NotFoundError
from app.models import CreditAccount, Customer
from app.services.catalog import Credits
from app.services.credits.book import Account, Book, open_book


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose account it is. The rest is kept with an account that is made for it, and changes none that is there."""

    user_id: str
    oauth_provider: str | None = None
    external_id: str | None = None
    email: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What an account has; without `account_id` it is that of somebody who has none yet."""

    account_id: UUID | None
    user_id: str
    status: str
    free: int
    paid: int
    held: int
    owed: int
    used: int

    @classmethod
    def of(cls, account: Account | CreditAccount) -> Self:
        """As its books have it, what has expired meanwhile included."""
        names = ("user_id", "status", "free", "paid", "held", "owed", "used")
        return cls(account_id=account.id, **{name: getattr(account, name) for name in names})

    @property
    def available(self) -> int:
        return self.free + self.paid


class AccountSuspendedError(BillingError):
    """Nothing can be spent, whatever there is."""

    status = 403
    code = "account_suspended"


async def find(
    session: AsyncSession, *, account_id: UUID | None = None, user_id: str | None = None
) -> CreditAccount | None:
    """As it is now, past what the session has seen of it before."""
    whose = CreditAccount.user_id == user_id if account_id is None else CreditAccount.id == account_id
    return await session.scalar(select(CreditAccount).where(whose).execution_options(populate_existing=True))


async def get(session: AsyncSession, *, account_id: UUID | None = None, user_id: str | None = None) -> CreditAccount:
    """Raises NotFoundError."""
    if (account := await find(session, account_id=account_id, user_id=user_id)) is None:
        raise NotFoundError("There is no such account.", code="account_not_found")
    return account


async def named(session: AsyncSession, id: str) -> CreditAccount:
    """By its id, or its user's. Raises NotFoundError; ConflictError where it is one's id and another's user's."""
    whose = CreditAccount.user_id == id
    with suppress(ValueError):
        whose = or_(whose, CreditAccount.id == UUID(id))
    found = (await session.scalars(select(CreditAccount).where(whose).execution_options(populate_existing=True))).all()
    if len(found) > 1:  # whoever may choose their user id must not be taken for another, nor be one's undoing
        raise ConflictError("This is one account's id and another's user: use the other id.", code="account_ambiguous")
    if not found:
        raise NotFoundError("There is no such account.", code="account_not_found")
    return found[0]


async def ensure(session: AsyncSession, rules: Credits, identity: Identity, now: int) -> tuple[CreditAccount, bool]:
    """The user's account, and whether it is new."""
    if (account := await find(session, user_id=identity.user_id)) is not None:
        return account, False
    book, created = await open_or_create(session, rules, identity, now)
    await book.close()
    return await get(session, account_id=book.account.id), created


async def open_or_create(session: AsyncSession, rules: Credits, identity: Identity, now: int) -> tuple[Book, bool]:
    """The user's books, with the free uses if they are new, and whether they are."""
    if (book := await open_book(session, rules, now, user_id=identity.user_id)) is not None:
        return book, False
    erasing = select(Customer.id).where(
        Customer.user_id == identity.user_id, ~Customer.deleted, Customer.erased_at.is_not(None)
    )
    if await session.scalar(erasing) is not None:
        raise _being_erased()
    values = {
        "id": uuid4(),
        "user_id": identity.user_id,
        "oauth_provider": identity.oauth_provider,
        "external_id": identity.external_id,
        "email": identity.email,
        "created": now,
    }
    made = await session.scalar(
        insert(CreditAccount).values(values).on_conflict_do_nothing().returning(CreditAccount.id)
    )
    book = await open_book(session, rules, now, user_id=identity.user_id)
    if book is None:
        raise _being_erased()
    if made is not None and rules.free_uses:
        book.grant(rules.free_uses, book="free")
    return book, made is not None


def _being_erased() -> NotFoundError:
    return NotFoundError("This user is being erased.", code="account_not_found")
