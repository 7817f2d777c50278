"""What an account had before Billhook came: taken over from Stripe's lists, announced to nobody."""

from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Cursor
from app.provider.protocol import BillingProvider, Snapshot
from app.services import customers, mirror
from app.services.event_effects import KINDS, Ref
from app.services.mirror import Origin
from app.services.reconcile import differences
from app.services.reconcile.differences import Fetched
from app.services.reconcile.lists import LISTS, Place

_CURSOR = "sync"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a back-fill has come: in which list (none: at the end), and there at which place."""

    name: str | None
    since: int | None
    place: Place = field(default_factory=Place)

    def advanced(self, place: Place | None) -> "Position":
        """Where it goes on after a page that `place` follows; None for the last one of a list."""
        if place is not None or self.name is None:
            return Position(name=self.name, since=self.since, place=place or Place())
        names = [*LISTS, None]
        return Position(name=names[names.index(self.name) + 1], since=self.since)


async def position(session: AsyncSession, *, since: int | None) -> Position:
    """Where to begin: at the beginning, or where an interrupted back-fill of the same stopped."""
    cursor = await session.get(Cursor, _CURSOR)
    if cursor is not None and cursor.value["name"] is not None and cursor.value["since"] == since:
        return Position(**{**cursor.value, "place": Place(**cursor.value["place"])})
    return Position(name=next(iter(LISTS)), since=since)


async def save(session: AsyncSession, position: Position) -> None:
    value = {"value": asdict(position), "updated_at": func.now()}
    insertion = insert(Cursor).values(name=_CURSOR, **value)
    await session.execute(insertion.on_conflict_do_update(index_elements=["name"], set_=value))


async def take_over(
    session: AsyncSession,
    provider: BillingProvider,
    ref: Ref,
    listed: Snapshot[Any] | None,
    *,
    actor: str,
    claim_user: bool = True,
) -> None:
    """Have our row say what Stripe says. Raises as `differences.apply` does.

    What a list showed may be older than a row that is here, so it is believed only where there is none; else, or
    without `listed`, Stripe is asked for the object itself.
    """
    fetched = Fetched(listed, None)
    if listed is None or await mirror.find_row(session, KINDS[ref[0]].model, ref[1]) is not None:
        fetched = await differences.fetch(session, provider, ref)
    owner = await differences.owner_of(session, ref, fetched)
    if owner is not None:
        await customers.lock(session, owner)
    if differences.is_unknown(ref, fetched):
        return  # another account's, or a mistake: `reconcile` names it
    if await differences.differing(session, ref[0], fetched) is not None:
        origin = Origin(actor=actor, silent=True)
        await differences.apply(session, ref, fetched, origin=origin, claim_user=claim_user)
