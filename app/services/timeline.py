"""One customer's timeline: what Stripe told, what was called, what changed and what was announced, newest first.

Four tables are merged. Each is read in the order of its row ids, and a place in the timeline is four of them: where
each table goes on. A moment couldn't say that: rows get their time before they can be seen, and not in that order.
"""

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, defer

from app.errors import InvalidRequestError, NotFoundError
from app.models import ApiCall, AuditRow, Customer, OutboxMessage, StripeEvent

Row = StripeEvent | ApiCall | AuditRow | OutboxMessage

_LARGEST_ID = 2**63 - 1
_PLACE = re.compile(r"\d{1,19}(?:-\d{1,19}){3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Entry:
    """`place` is what the entries after this one are asked for with."""

    at: datetime
    row: Row
    place: str


@dataclass(frozen=True, slots=True)
class Source:
    """A table of the timeline, and its columns that say when, and whose a row is; `(owner, id)` must be an index."""

    model: type[Row]
    at: InstrumentedAttribute[datetime]
    owner: InstrumentedAttribute[Any]


SOURCES = (
    Source(StripeEvent, StripeEvent.received_at, StripeEvent.key),
    Source(ApiCall, ApiCall.at, ApiCall.user_id),
    Source(AuditRow, AuditRow.at, AuditRow.customer_id),
    Source(OutboxMessage, OutboxMessage.created_at, OutboxMessage.customer_id),
)


async def list_entries(session: AsyncSession, id: str, *, limit: int, starting_after: str | None) -> list[Entry]:
    """Newest first, up to `limit` + 1 entries to tell if there is more; `id` is a user id or a Stripe customer's.

    Raises NotFoundError for a customer nobody knows, InvalidRequestError for a `starting_after` that is no place.
    """
    before = _parse(starting_after)
    found = await session.scalars(select(Customer).where((Customer.user_id == id) | (Customer.stripe_id == id)))
    customers = found.all()
    if not customers:
        raise NotFoundError("There is no such customer.", code="customer_not_found")
    row_ids = [customer.id for customer in customers]
    owners: tuple[Sequence[Any], ...] = (
        [customer.stripe_id for customer in customers],
        list({customer.user_id or customer.stripe_id for customer in customers}),
        row_ids,
        row_ids,
    )
    tables = [
        await _newest(session, source, whose, before=last, most=limit + 1)
        for source, whose, last in zip(SOURCES, owners, before, strict=True)
    ]
    return _merge(tables, most=limit + 1)


async def _newest(session: AsyncSession, source: Source, owners: Sequence[Any], *, before: int, most: int) -> list[Any]:
    """Rows with a lower id than `before`. One query per owner (mostly one) is sure to walk the index backwards."""
    model = source.model
    rows: list[Any] = []
    for owner in owners:
        query = select(model).where(source.owner == owner, model.id < before).order_by(model.id.desc()).limit(most)
        if model is StripeEvent:
            query = query.options(defer(StripeEvent.payload, raiseload=True))  # large, and not shown
        rows += (await session.scalars(query)).all()
    return sorted(rows, key=lambda row: row.id, reverse=True)[:most]


def _merge(tables: Sequence[list[Any]], *, most: int) -> list[Entry]:
    """The newest of the tables' first rows, again and again: no table's own order is ever changed."""
    # What appears while somebody turns the pages is newer than their first page, and not for the others.
    place = [rows[0].id + 1 if rows else 0 for rows in tables]
    numbered = [
        [(number, getattr(row, source.at.key), row) for row in rows]
        for number, (source, rows) in enumerate(zip(SOURCES, tables, strict=True))
    ]
    entries = []
    for number, at, row in islice(heapq.merge(*numbered, key=lambda item: item[1], reverse=True), most):
        place[number] = row.id
        entries.append(Entry(at, row, "-".join(map(str, place))))
    return entries


def _parse(place: str | None) -> list[int]:
    if place is None:
        return [_LARGEST_ID] * len(SOURCES)
    ids = [int(part) for part in place.split("-")] if _PLACE.fullmatch(place) else []
    if not ids or max(ids) > _LARGEST_ID:
        raise InvalidRequestError("Take it from the Link of the page before.", param="starting_after")
    return ids
