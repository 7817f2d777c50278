"""What an account had before Billhook came: taken over from Stripe's lists, and no news to anybody."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Cursor
from app.provider.objects import Snapshot, customer_of
from app.provider.protocol import BillingProvider
from app.services import bulk_effects, customers, mirror
from app.services.event_effects import KINDS, Ref
from app.services.mirror import NO_ROW, AsOf, Change, Origin, Row
from app.services.reconcile import differences
from app.services.reconcile.differences import Fetched
from app.services.reconcile.lists import LISTS, Place
from app.services.reconcile.runs import covers

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
    if cursor is not None and cursor.value["name"] is not None and covers(cursor.value["since"], since):
        return Position(**{**cursor.value, "place": replace(Place(**cursor.value["place"]), restarts=0)})
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
    history_until: int,
    claim_user: bool = True,
) -> bool:
    """Have our row say what Stripe says; False where it did already. Raises as `differences.apply` does.

    What a list showed may be older than a row that is here, so it is believed only where there is none; else, or
    without `listed`, Stripe is asked for the object itself. What was made before second `history_until` is no news.
    """
    fetched = Fetched(listed, None)
    if listed is None or await mirror.find_row(session, KINDS[ref[0]].model, ref[1]) is not None:
        fetched = await differences.fetch(session, provider, ref)
    owner = await differences.owner_of(session, ref, fetched)
    if owner is not None:
        await customers.lock(session, owner)
    # What this account never had is another's, or a mistake: `reconcile` names it.
    if differences.is_unknown(ref, fetched) or await differences.differing(session, ref[0], fetched) is None:
        return False
    origin = Origin(actor=actor, silent=fetched.is_history(history_until))
    await differences.apply(session, ref, fetched, origin=origin, claim_user=claim_user)
    return True


async def take_over_new(
    connection: Any, shown: Mapping[Ref, Snapshot[Any]], refs: Sequence[Ref], *, actor: str, history_until: int
) -> set[Ref]:
    """Write those of `refs` that have no row yet, and whose customer has or is among them; answers which.

    In a transaction of an asyncpg `connection` that holds the locks of their customers. Raises
    bulk_rows.OvertakenError, and then the transaction must be rolled back.
    """
    owners = {("customer", owner) for ref in refs if (owner := owner_of(ref, shown)) is not None}
    known = await bulk_effects.read(connection, {*refs, *owners}, [shown[ref].object for ref in refs])
    written: dict[Ref, Row] = {}
    changes: list[Change] = []

    def find(ref: Ref) -> Row | None:
        return written.get(ref) or known.rows.get(ref)

    for ref in refs:
        kind, snapshot = KINDS[ref[0]], shown[ref]
        values = None if find(ref) else bulk_effects.values_of(kind, snapshot.object, None, known, find)
        if values is None:
            continue
        as_of = AsOf(at=snapshot.at, revision=NO_ROW)
        if (row := mirror.next_row(kind.model, ref[1], None, values, as_of=as_of)) is not None:
            origin = Origin(actor=actor, silent=snapshot.object.created < history_until)
            changes.append(Change(model=kind.model, old=None, new=row, origin=origin))
            written[ref] = row
    await bulk_effects.write(connection, changes)
    return set(written)


def owner_of(ref: Ref, shown: Mapping[Ref, Snapshot[Any]]) -> str | None:
    """The Stripe customer that a listed object is, or belongs to."""
    return customer_of(shown[ref].object)
