"""Events that never arrived: Stripe's list of events held against the inbox, and what is missing put into it."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Cursor, StripeEvent
from app.provider.objects import Envelope, Page
from app.provider.protocol import BillingProvider
from app.services.event_effects import Ref
from app.services.event_types import HANDLED, kind_of
from app.services.receiver import WAKE_CHANNEL, key_of, why_ignored
from app.values import unix_now

KEPT_SECONDS = 30 * 86_400  # how long Stripe lists an event (docs.stripe.com/api/events)
UNDERWAY_SECONDS = 300
"""Younger events may still be on their way to us, or not be listed yet: the cursor stays that far behind."""
OVERLAP_SECONDS = 3600  # read again each time, for what was listed later still
WINDOW_SECONDS = 6 * 3600
"""What is read between two notes of how far the reading has come: older windows first, in each the newest page."""

_TYPES_PER_CALL = 20  # docs.stripe.com/api/events/list
_CURSOR = "events"


@dataclass(frozen=True, slots=True)
class Missed:
    """An event that Stripe lists and the inbox lacks, with its JSON."""

    event: Envelope
    payload: str


@dataclass(frozen=True, slots=True)
class Told:
    """What a page of Stripe's events tells: which of them we lack (oldest first), and what all of them are about."""

    missed: Sequence[Missed]
    about: set[Ref]


async def pages(provider: BillingProvider, *, since: int, until: int) -> AsyncIterator[Page[Mapping[str, Any]]]:
    """Stripe's events created from `since` to `until` (unix seconds, both included), of all the types we handle."""
    types = iter(HANDLED)
    while chunk := list(islice(types, _TYPES_PER_CALL)):
        after = None
        while True:
            page = await provider.list_events(types=chunk, since=since, until=until, after=after)
            yield page
            if (after := page.next) is None:
                break


async def read(session: AsyncSession, provider: BillingProvider, page: Page[Mapping[str, Any]]) -> Told:
    """Hold a page of events against the inbox."""
    listed = [(provider.parse_envelope(event), event) for event in page.objects]
    known = await _known(session, [event.id for event, _ in listed])
    missed = [Missed(event, json.dumps(raw)) for event, raw in listed if event.id not in known]
    # Stripe lists the newest first, also among those of one second: turned round, and sorted by second alone.
    missed.reverse()
    missed.sort(key=lambda one: one.event.created)
    return Told(missed, {ref for event, _ in listed if (ref := _ref(event)) is not None})


def _ref(event: Envelope) -> Ref | None:
    kind = kind_of(event.type)
    return None if kind is None or event.object_id is None else (kind, event.object_id)


async def _known(session: AsyncSession, event_ids: Sequence[str]) -> set[str]:
    found = select(StripeEvent.event_id).where(StripeEvent.event_id.in_(event_ids), StripeEvent.account == "")
    return set((await session.scalars(found)).all())


async def store(session: AsyncSession, missed: Sequence[Missed], *, livemode: bool) -> list[Missed]:
    """Put a page of events into the inbox as the receiver would have, and wake the worker; gives those still new."""
    if not missed:
        return []
    insertion = insert(StripeEvent).values([_row(one, livemode=livemode) for one in missed])
    insertion = insertion.on_conflict_do_nothing(index_elements=["event_id", "account"])
    stored = set((await session.scalars(insertion.returning(StripeEvent.event_id))).all())
    if stored:
        await session.execute(select(func.pg_notify(WAKE_CHANNEL, "")))
    return [one for one in missed if one.event.id in stored]


def _row(missed: Missed, *, livemode: bool) -> dict[str, Any]:
    event = missed.event
    reason = why_ignored(event, livemode=livemode)
    return {
        "account": event.account or "",
        "event_id": event.id,
        "type": event.type,
        "key": key_of(event),
        "created": event.created,
        "livemode": event.livemode,
        "api_version": event.api_version,
        "payload": missed.payload,
        "reason": reason,
        "status": "pending" if reason is None else "ignored",
    }


async def heard_since(session: AsyncSession) -> int:
    """From which second on Stripe has told us what happens; what was before is history to us, and no news."""
    first = await session.scalar(select(StripeEvent.created).order_by(StripeEvent.id).limit(1))
    cursor = await session.get(Cursor, _CURSOR)
    return min(unix_now() if first is None else first, unix_now() if cursor is None else cursor.value["began"])


async def begin(session: AsyncSession) -> None:
    """Note where the reading begins, if it is the first time."""
    first = {"began": (began := await heard_since(session)), "at": began, "installed": unix_now()}
    await session.execute(insert(Cursor).values(name=_CURSOR, value=first).on_conflict_do_nothing())


async def claim(session: AsyncSession, *, every: timedelta) -> int | None:
    """From which second on events are to be read now; None when somebody did, or began to, less than `every` ago.

    The first call of all only notes where the reading begins.
    """
    await begin(session)
    due = (Cursor.name == _CURSOR, Cursor.updated_at <= func.now() - every)
    if await session.scalar(update(Cursor).where(*due).values(updated_at=func.now()).returning(Cursor.name)) is None:
        return None
    return await unread_since(session)


async def unread_since(session: AsyncSession) -> int:
    """From which second on, at the latest, events haven't been read yet."""
    cursor = await session.get(Cursor, _CURSOR)
    at = 0 if cursor is None else cursor.value["at"] - OVERLAP_SECONDS
    return max(at, await oldest(session))


async def oldest(session: AsyncSession) -> int:
    """From which second on Stripe still lists events, and would have told us of them."""
    return max(await heard_since(session), unix_now() - KEPT_SECONDS)


async def advance(session: AsyncSession, at: int) -> None:
    """Everything up to second `at` has been read."""
    cursor = await session.get_one(Cursor, _CURSOR, with_for_update=True, populate_existing=True)
    cursor.value = {**cursor.value, "at": max(at, cursor.value["at"])}
    cursor.updated_at = func.clock_timestamp()


async def installed_at(session: AsyncSession) -> int:
    """When the first worker of this database began to read, in unix seconds of our clock."""
    cursor = await session.get(Cursor, _CURSOR)
    return unix_now() if cursor is None else int(cursor.value["installed"])
