"""Events of many customers at once: rows read together, changes decided in memory, everything written together.

Only what needs no thought is done here: payloads that are newer than their rows, and those that bring no news. What
needs Stripe to be asked, or a customer to be made, is left for `event_effects` to do one customer at a time.
"""

import asyncio
from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.models.mirror import Mirrored
from app.provider.protocol import Customer, Event, Invoice, Subscription
from app.services import bulk_rows, customers, mirror
from app.services.event_effects import KINDS, Ref, ref_of, requirements
from app.services.mirror import AsOf, Change, Origin, Row

BREATH = 8  # keys decided between two looks at the event loop, so that requests are not kept waiting


async def apply(connection: Any, events: Mapping[str, Sequence[Event]]) -> set[str]:
    """Apply what can be, of `events` by key (oldest first), inside the transaction of an asyncpg `connection`.

    The caller holds the lock of every key. Answers the keys whose events are all applied; of the others nothing is
    written. Raises bulk_rows.OvertakenError, or what Postgres says, and then the transaction must be rolled back.
    """
    rows = await _read(connection, [event for several in events.values() for event in several])
    plans = await _plans(connection, [event for several in events.values() for event in several])
    done: set[str] = set()
    touched: dict[tuple[type[Mirrored], str], str] = {}
    changes: list[Change] = []
    for count, (key, several) in enumerate(events.items(), 1):
        if count % BREATH == 0:
            await asyncio.sleep(0)
        decided = _decide(several, rows, plans)
        # Two keys with one object are so rare that the second may wait for its turn alone.
        if decided is None or any(touched.get(_place(change), key) != key for change in decided):
            continue
        touched |= {_place(change): key for change in decided}
        changes += decided
        done.add(key)
    await _write(connection, changes)
    return done


def _place(change: Change) -> tuple[type[Mirrored], str]:
    return change.model, change.new["stripe_id"]


async def _read(connection: Any, events: Iterable[Event]) -> dict[Ref, Row]:
    """Every row the events are about, or need."""
    wanted: dict[str, set[str]] = {}
    for event in events:
        for ref in (ref_of(event), *requirements(event)):
            if ref is not None:
                wanted.setdefault(ref[0], set()).add(ref[1])
    return {
        (kind, stripe_id): row
        for kind, ids in wanted.items()
        for stripe_id, row in (await bulk_rows.find(connection, KINDS[kind].model, list(ids))).items()
    }


async def _plans(connection: Any, events: Iterable[Event]) -> dict[str, str]:
    prices = {
        item.price.id for event in events if isinstance(event.object, Subscription) for item in event.object.items
    }
    if not prices:
        return {}
    found = await connection.fetch("SELECT stripe_id, plan FROM prices WHERE stripe_id = ANY($1)", list(prices))
    return {row["stripe_id"]: row["plan"] for row in found}


def _decide(events: Sequence[Event], stored: Mapping[Ref, Row], plans: Mapping[str, str]) -> list[Change] | None:
    """The changes one key's events make, in their order; None when they need more than our rows to judge."""
    rows: ChainMap[Ref, Row] = ChainMap({}, stored)  # type: ignore[arg-type]  # only the first map is ever written
    changes: list[Change] = []
    for event in events:
        ref = ref_of(event)
        if ref is None or event.object is None or any(needed not in rows for needed in requirements(event)):
            return None
        row, known, customer_id = rows.get(ref), True, None
        if isinstance(event.object, Customer):
            known = row is not None and customers.is_settled(row, event.object)
        elif event.object.customer is not None:
            known = (owner := ("customer", event.object.customer)) in rows
            customer_id = rows[owner]["id"] if known else None
        else:
            known = not isinstance(event.object, Invoice)
        if not known:
            return None
        kind = KINDS[ref[0]]
        values = kind.columns(event.object, customer_id, plans)
        new = mirror.next_row(kind.model, ref[1], row, values, as_of=AsOf(at=event.created))
        if new is not None:
            origin = Origin(actor="stripe", stripe_event_id=event.id)
            changes.append(Change(model=kind.model, old=row, new=new, origin=origin))
            rows[ref] = new
        elif not mirror.shows(row, values):
            return None
    return changes


async def _write(connection: Any, changes: Sequence[Change]) -> None:
    for model, rows in bulk_rows.news_of(changes).items():
        await bulk_rows.write(connection, model, rows)
    on_trial = {c.new["customer_id"] for c in changes if c.new.get("trial_end") is not None}
    if on_trial:
        sql = "UPDATE customers SET trial_used = true WHERE id = ANY($1) AND NOT trial_used"
        await connection.execute(sql, list(on_trial))
    await bulk_rows.append_outbox(connection, [message for c in changes for message in mirror.announcements(c)])
    entries = [mirror.audit_entry(change) for change in changes]
    await bulk_rows.append_audit(connection, [entry for entry in entries if entry is not None])
