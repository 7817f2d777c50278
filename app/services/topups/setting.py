"""Which pack is to be bought by itself, and when: set, shown, removed. All of it is in the audit log."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.models import CreditAccount, CreditTopup
from app.services import audit, customers
from app.services.catalog import Catalog, Credits, Pack
from app.services.topups import tries


async def get(session: AsyncSession, account_id: UUID) -> CreditTopup:
    """Raises NotFoundError."""
    found = await session.scalar(
        select(CreditTopup)
        .where(CreditTopup.account_id == account_id, CreditTopup.threshold.is_not(None))
        .execution_options(populate_existing=True)
    )
    if found is None:
        raise NotFoundError("This account has no automatic top-up.", code="topup_not_found")
    return found


async def put(
    session: AsyncSession,
    catalog: Catalog,
    account: CreditAccount,
    *,
    pack: str,
    threshold: int,
    actor: str,
    now: int,
) -> CreditTopup:
    """Have `pack` bought whenever no more than `threshold` uses are left; now, if so few are. Declines still count.

    Raises NotFoundError, InvalidRequestError, or ConflictError where there is nothing to pay with.
    """
    _check(catalog.packs.get(pack), threshold)
    if account.status == "closed":
        raise ConflictError("This account is closed.", code="account_closed")
    if await tries.charged(session, account.user_id) is None:
        raise ConflictError("There is no payment method: have the customer save one first.", code="no_payment_method")
    before = await _alone(session, account.id)
    after = {"pack": pack, "threshold": threshold}
    if before != after:
        await _record(session, account, actor=actor, action="credits.topup_set", before=before, after=after)
    book = await tries.open_account(session, catalog.credits, account.id, now)
    book.topup_at = threshold  # from now on charges stop there and look
    await book.close()
    topup = await tries.lock(session, account.id)
    if topup is None:
        topup = CreditTopup(account_id=account.id, failures=0)
        session.add(topup)
    topup.pack, topup.threshold = pack, threshold
    if topup.purchase_id is None:
        if book.available > threshold or tries.is_open(topup):
            topup.due_at = None
        elif topup.due_at is None or not topup.failures:
            topup.due_at = now
    await session.flush()
    return topup


async def remove(session: AsyncSession, rules: Credits, account: CreditAccount, *, actor: str, now: int) -> None:
    """Begin no other try; one that is under way ends as it ends. Raises NotFoundError."""
    before = await _alone(session, account.id)
    await get(session, account.id)
    await _record(session, account, actor=actor, action="credits.topup_removed", before=before, after=None)
    book = await tries.open_account(session, rules, account.id, now)
    book.topup_at = None
    await book.close()
    topup = await tries.lock(session, account.id)
    if topup is not None:
        topup.threshold = None
        await tries.end(session, topup)


def _check(pack: Pack | None, threshold: int) -> None:
    if pack is None:
        raise NotFoundError("There is no such pack.", code="pack_not_found", param="pack")
    if threshold >= pack.uses:
        raise InvalidRequestError(
            f"With {pack.uses} uses in the pack, the threshold must be less.",
            code="threshold_too_high",
            param="threshold",
        )


async def _alone(session: AsyncSession, account_id: UUID) -> dict[str, object] | None:
    """What is set, and nobody else sets anything else until the commit: the audit log must tell of each change once."""
    await customers.lock(session, f"topup:{account_id}")
    found = await session.execute(
        select(CreditTopup.pack, CreditTopup.threshold).where(
            CreditTopup.account_id == account_id, CreditTopup.threshold.is_not(None)
        )
    )
    row = found.one_or_none()
    return None if row is None else {"pack": row.pack, "threshold": row.threshold}


async def _record(
    session: AsyncSession,
    account: CreditAccount,
    *,
    actor: str,
    action: str,
    before: dict[str, object] | None,
    after: dict[str, object] | None,
) -> None:
    customer = await customers.find_for_user(session, account.user_id)
    await audit.record(
        session,
        actor=actor,
        action=action,
        subject=str(account.id),
        customer_id=None if customer is None else customer.id,
        before=before,
        after=after,
    )
