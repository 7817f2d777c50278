"""Takes an account's past over from Stripe, page by page: `billhook sync`."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import Sessions, driver_connection, transaction
from app.errors import UnreadableAnswerError
from app.provider.protocol import BillingProvider
from app.services import backfill
from app.services.bulk_rows import OvertakenError
from app.services.event_effects import Ref
from app.services.reconcile import lists, missed
from app.services.reconcile.lists import Look
from app.worker import customers_first
from app.worker.batch import LOCK

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What became of a page: how many objects of which list it had, were written, and could not be taken over."""

    name: str
    seen: int
    written: int
    left: int


async def sync(
    sessions: Sessions,
    provider: BillingProvider,
    *,
    actor: str,
    since: int | None,
    watch: Callable[[Page], None],
) -> None:
    """Take over what was made since then (unix seconds), or everything, going on where an earlier call stopped.

    `watch` is told of each page.
    """
    async with transaction(sessions) as session:
        position = await backfill.position(session, since=since)
        history_until = await missed.heard_since(session)
    while position.name is not None:
        async with transaction(sessions) as session:
            found = await lists.look(session, provider, position.name, position.place, since=position.since)
        taking = _Taking(sessions, provider, found, actor, history_until)
        new = await taking.together()
        alone = [await taking.alone(ref) for ref in found.suspects if ref not in new]
        left = [*found.unreadable, *(ref for ref, written in alone if written is None)]
        if left:
            log.warning("sync_left", objects=[id for _, id in left])
        written = len(new) + sum(bool(written) for _, written in alone)
        watch(Page(name=position.name, seen=len(found.shown) + len(found.unreadable), written=written, left=len(left)))
        position = position.advanced(found.next)
        async with transaction(sessions) as session:
            await backfill.save(session, position)


@dataclass(frozen=True, slots=True)
class _Taking:
    """A page on its way into the database."""

    sessions: Sessions
    provider: BillingProvider
    found: Look
    actor: str
    history_until: int

    async def together(self) -> set[Ref]:
        """What needs no thought, in one transaction; answers what that was."""
        shown = self.found.shown
        listed = [ref for ref in self.found.suspects if ref in shown]
        owners = {ref: owner for ref in listed if (owner := backfill.owner_of(ref, shown)) is not None}
        try:
            async with driver_connection(self.sessions) as connection, connection.transaction():
                locked = {row["key"] for row in await connection.fetch(LOCK, sorted(set(owners.values())))}
                ours = [ref for ref, owner in owners.items() if owner in locked]
                return await backfill.take_over_new(
                    connection, shown, ours, actor=self.actor, history_until=self.history_until
                )
        except OvertakenError:
            return set()

    async def alone(self, ref: Ref) -> tuple[Ref, bool | None]:
        """Whether it had to be written; None if it can't be."""

        async def work(session: AsyncSession, /, *, claim_user: bool, last: bool) -> bool:  # noqa: ARG001 - Work's own
            return await backfill.take_over(
                session,
                self.provider,
                ref,
                self.found.shown.get(ref),
                actor=self.actor,
                history_until=self.history_until,
                claim_user=claim_user,
            )

        try:
            return ref, await customers_first.write(self.sessions, self.provider, work, actor=self.actor)
        except UnreadableAnswerError:
            return ref, None
