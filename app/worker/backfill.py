"""Takes an account's past over from Stripe, page by page: `billhook sync`."""

from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import Sessions, transaction
from app.provider.protocol import BillingProvider
from app.services import backfill
from app.services.event_effects import Ref
from app.services.reconcile import lists
from app.services.reconcile.lists import Look
from app.worker import customers_first


async def sync(
    sessions: Sessions,
    provider: BillingProvider,
    *,
    actor: str,
    since: int | None,
    watch: Callable[[str, int, int], None],
) -> None:
    """Take over what was made since then (unix seconds), or everything, going on where an earlier call stopped.

    `watch` is told after each page which list it was of, how many objects it had, and how many were written.
    """
    async with transaction(sessions) as session:
        position = await backfill.position(session, since=since)
    while position.name is not None:
        async with transaction(sessions) as session:
            found = await lists.look(session, provider, position.name, position.place, since=since)
        for ref in found.suspects:
            await _take_over(sessions, provider, ref, found, actor)
        watch(position.name, len(found.shown), len(found.suspects))
        position = position.advanced(found.next)
        async with transaction(sessions) as session:
            await backfill.save(session, position)


async def _take_over(sessions: Sessions, provider: BillingProvider, ref: Ref, found: Look, actor: str) -> None:
    async def work(session: AsyncSession, /, *, claim_user: bool, last: bool) -> None:  # noqa: ARG001 - Work's own
        await backfill.take_over(session, provider, ref, found.shown.get(ref), actor=actor, claim_user=claim_user)

    await customers_first.write(sessions, provider, work, actor=actor)
