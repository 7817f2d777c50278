"""Erasing a user who is no customer: their credit account, and what else names them; begun for good, so it gets done.

An account that is closed, and doesn't stand under its stand-in's name yet, is one whose erasing was begun.
"""

from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID, uuid4

from sqlalchemy import and_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError, NotFoundError
from app.models import CreditAccount, Customer
from app.services import audit, customers, erasing, forgetting
from app.services.credits import accounts
from app.values import unix_now


class HasCustomerError(ConflictError):
    """There is more of the user than this could erase."""

    def __init__(self) -> None:
        super().__init__(
            "This user has, or had, a customer at Stripe. Erase that: the account and all else of the user goes too.",
            code="has_customer",
        )


async def find(session: AsyncSession, id: str) -> UUID:
    """The account to erase, by its id or its user's. Raises NotFoundError where nothing is known, HasCustomerError.

    Of whom there is but usage there is an account afterwards, a closed one: it keeps in mind that they're to be erased.
    """
    with suppress(NotFoundError):
        return (await accounts.named(session, id)).id
    if not await forgetting.is_named(session, [id]):
        raise NotFoundError("There is no such account.", code="account_not_found")
    await _left_of(session, None, id)
    closed = {"id": uuid4(), "user_id": id, "status": "closed", "created": unix_now()}
    await session.execute(insert(CreditAccount).values(closed).on_conflict_do_nothing())
    return (await accounts.get(session, user_id=id)).id


async def begin(session: AsyncSession, account_id: UUID, *, actor: str) -> None:
    """Settle that the user is to be erased: nothing is spent from now on. Raises HasCustomerError."""
    await _lock(session, account_id)
    account = await accounts.get(session, account_id=account_id)
    user_id = await _left_of(session, account.id, account.user_id)
    if user_id is not None:
        subject = str(account_id)
        await audit.record(session, actor=actor, action="credit_account.erase_requested", subject=subject)
        await forgetting.close_accounts(session, [user_id])


async def unfinished(session: AsyncSession) -> Sequence[UUID]:
    """The accounts whose erasing was begun and not done, but for those that go with their customer."""
    customers_s = select(Customer.id).where(Customer.user_id == CreditAccount.user_id, Customer.erased_at.is_not(None))
    named = and_(CreditAccount.user_id != forgetting.ACCOUNT_STAND_IN, ~customers_s.exists())
    return (await session.scalars(select(CreditAccount.id).where(CreditAccount.status == "closed", named))).all()


async def rename_some(session: AsyncSession, account_id: UUID) -> bool:
    """As `erasing.rename_some`. Raises HasCustomerError where the user has become a customer meanwhile."""
    account = await accounts.get(session, account_id=account_id)
    user_id = await _left_of(session, account.id, account.user_id)
    return user_id is not None and await forgetting.rename_some(session, user_id, forgetting.stand_in(account_id))


async def complete(session: AsyncSession, account_id: UUID, *, actor: str) -> None:
    """Forget the user. Twice is no error. Raises HasCustomerError as `rename_some` does."""
    await _lock(session, account_id)
    account = await accounts.get(session, account_id=account_id)
    if (user_id := await _left_of(session, account.id, account.user_id)) is not None:
        await forgetting.forget_account(session, account_id, user_id, actor=actor)


async def _lock(session: AsyncSession, account_id: UUID) -> None:
    """Keep others waiting who erase or suspend it; the same lock as that of `grants.set_status`."""
    await customers.lock(session, f"credits:{account_id}")


async def _left_of(session: AsyncSession, account_id: UUID | None, user_id: str) -> str | None:
    """The user id that is still to be taken out, None when that was done. Raises HasCustomerError."""
    if account_id is not None and user_id == forgetting.stand_in(account_id):
        return None
    theirs = await erasing.of_user(session, user_id)
    if any(customer.user_id == forgetting.stand_in(customer.id) for customer in theirs):
        return None
    # Rows that name Stripe's customer by its id are that customer's, whoever calls themselves so.
    if theirs or await session.scalar(select(Customer.id).where(Customer.stripe_id == user_id)) is not None:
        raise HasCustomerError
    return user_id
