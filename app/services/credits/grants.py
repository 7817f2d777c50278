"""What operators do with credit accounts: give uses, correct balances, suspend. All of it is in the audit log.

Its entry is written before the account's row is locked: who holds an audit chain may be waiting for that row.
"""

from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import case, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.models import CreditAccount, CreditTransfer
from app.services import audit, customers
from app.services.catalog import Credits
from app.services.credits import accounts, reading
from app.services.credits.accounts import Balance
from app.services.credits.book import Book, open_book
from app.services.credits.reading import GrantState


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """Uses given or (negative) taken away, when (unix seconds), and what the account has now."""

    uses: int
    reason: str
    created: int
    balance: Balance


async def grant(
    session: AsyncSession,
    rules: Credits,
    account_id: UUID,
    *,
    uses: int,
    expires_at: int | None,
    reason: str,
    key: str,
    actor: str,
    now: int,
) -> GrantState:
    """Give uses. The same key again gives nothing more, ever.

    Raises InvalidRequestError, NotFoundError or ConflictError.
    """
    key = f"grant:{key}"
    if (first := await _done_with(session, key)) is not None and first.grant_id is not None:
        state = await reading.get_grant(session, first.grant_id, now=now)
        done = state.grant
        if (done.account_id, done.amount, done.expires_at, done.reason) != (account_id, uses, expires_at, reason):
            raise _key_reused()
        return state
    if expires_at is not None and expires_at <= now:
        raise InvalidRequestError("A grant must expire in the future.", code="expires_in_past", param="expires_at")
    after = {"uses": uses, "expires_at": expires_at, "reason": reason}
    await _record(session, account_id, actor=actor, action="credits.granted", after=after)
    book = await _open(session, rules, account_id, now)
    grant_id = book.grant(uses, expires_at=expires_at, reason=reason, key=key)
    await book.close()
    return await reading.get_grant(session, grant_id, now=now)


async def adjust(
    session: AsyncSession,
    rules: Credits,
    account_id: UUID,
    *,
    uses: int,
    reason: str,
    key: str,
    actor: str,
    now: int,
) -> Adjustment:
    """Give uses, or take away no more than are available. The same key again changes nothing more, ever.

    Raises InvalidRequestError, NotFoundError or ConflictError.
    """
    key = f"adjust:{key}"
    if (first := await _done_with(session, key)) is not None:
        if (first.account_id, await _adjusted(session, first), first.reason) != (account_id, uses, reason):
            raise _key_reused()
        created = first.created
    else:
        await _record(
            session, account_id, actor=actor, action="credits.adjusted", after={"uses": uses, "reason": reason}
        )
        book = await _open(session, rules, account_id, now)
        book.adjust(uses, reason=reason, key=key)
        await book.close()
        created = now
    state = await reading.get_account(session, account_id, now=now)
    return Adjustment(uses=uses, reason=reason, created=created, balance=state.balance)


async def set_status(
    session: AsyncSession, account_id: UUID, status: Literal["active", "suspended"], *, actor: str
) -> None:
    """Suspend the account, or let it spend again. Raises NotFoundError, or ConflictError for a closed one."""
    await customers.lock(session, f"credits:{account_id}")  # or two who do this would both tell of the same change
    account = await accounts.get(session, account_id=account_id)
    if account.status == status:
        return
    before = {"status": account.status}
    action = "credit_account.suspended" if status == "suspended" else "credit_account.reactivated"
    await _record(session, account_id, actor=actor, action=action, before=before, after={"status": status})
    # It may have been closed while we waited for the audit chain.
    setting = update(CreditAccount).where(CreditAccount.id == account_id, CreditAccount.status != "closed")
    if await session.scalar(setting.values(status=status).returning(CreditAccount.id)) is None:
        raise _closed()


async def _done_with(session: AsyncSession, key: str) -> CreditTransfer | None:
    """The first transfer this key stands for; whoever else has the same one waits for our end."""
    await customers.lock(session, key)
    return await session.scalar(select(CreditTransfer).where(CreditTransfer.key == key))


async def _adjusted(session: AsyncSession, first: CreditTransfer) -> int:
    """How many uses the adjustment that began with this transfer gave or took: the legs after it have no key."""
    after = (CreditTransfer.account_id == first.account_id, CreditTransfer.id > first.id)
    other = or_(CreditTransfer.kind != "adjust", CreditTransfer.key.is_not(None))
    end = select(func.min(CreditTransfer.id)).where(*after, other).scalar_subquery()
    signed = case((CreditTransfer.source == "issued", CreditTransfer.amount), else_=-CreditTransfer.amount)
    rest = select(func.sum(signed)).where(*after, func.coalesce(CreditTransfer.id < end, True))
    return (first.amount if first.source == "issued" else -first.amount) + int(await session.scalar(rest) or 0)


async def _record(session: AsyncSession, account_id: UUID, *, actor: str, action: str, **changes: Any) -> None:
    account = await accounts.get(session, account_id=account_id)
    if account.status == "closed":
        raise _closed()
    customer = await customers.find_for_user(session, account.user_id)
    await audit.record(
        session,
        actor=actor,
        action=action,
        subject=str(account_id),
        customer_id=None if customer is None else customer.id,
        **changes,
    )


async def _open(session: AsyncSession, rules: Credits, account_id: UUID, now: int) -> Book:
    if (book := await open_book(session, rules, now, account_id=account_id)) is None:
        raise NotFoundError("There is no such account.", code="account_not_found")
    if book.account.status == "closed":
        raise _closed()
    return book


def _closed() -> ConflictError:
    return ConflictError("This account is closed.", code="account_closed")


def _key_reused() -> InvalidRequestError:
    return InvalidRequestError(
        "This Idempotency-Key came with another request before.",
        code="idempotency_key_reused",
        param="Idempotency-Key",
    )
