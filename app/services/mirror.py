"""How what Stripe says becomes our rows: never older over newer, whatever order the news comes in."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Table, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Customer
from app.models.mirror import Mirrored
from app.services import audit, outbox
from app.values import unix_now

NO_ROW = 0
_ATTEMPTS = 10
SKEW_SECONDS = 300  # how far Stripe's clock may be ahead of ours

OWN = frozenset({"id", "stripe_id", "trial_used", "erased_at", "ours", "request"})
"""Columns that are not Stripe's to change: what follows Stripe writes them once at most, with a new row."""

Row = Mapping[str, Any]
"""A row's columns by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AsOf:
    """When and how we learned of an object's state.

    `at` is Stripe's clock in unix seconds. `revision` is None for an event's payload; for an answer of the API it is
    the row's revision from before the call (`NO_ROW` if there was none).
    """

    at: int
    revision: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who caused a change: for the audit log. A `silent` one is announced to nobody: it is no news, only new to us."""

    actor: str
    stripe_event_id: str | None = None
    silent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One write to one row."""

    model: type[Mirrored]
    old: Row | None
    new: Row
    origin: Origin


def is_newer(at: int, row: Row | None) -> bool:
    """Whether a payload of Stripe's second `at` may be applied without asking Stripe.

    Stripe's clock has seconds, so two changes of one second can't be told apart: only a later second is newer. Events
    from the future come of a test clock, while answers of the API have the real time: which is newer can't be told.
    """
    return row is None or row["synced_at"] < at <= unix_now() + SKEW_SECONDS


def shows(row: Row | None, values: Row) -> bool:
    """Whether the row says all of `values` already: then they bring no news, however old they are."""
    return row is not None and all(row[name] == value for name, value in values.items())


def next_row(
    model: type[Mirrored],
    stripe_id: str,
    row: Row | None,
    values: Row,
    *,
    as_of: AsOf,
    only_on_insert: Row | None = None,
) -> Row | None:
    """What becomes of `row` with `values`; None when `as_of` is stale."""
    if row is None:
        # A row that vanished since the fetch began can't be: rows are tombstoned, never deleted.
        first = {"id": uuid4(), "stripe_id": stripe_id, "synced_at": as_of.at, "revision": 1}
        return {**_blank(table_of(model)), **first, **values, **(only_on_insert or {})}
    if not _may_apply(as_of, row, values):
        return None
    # A fetch can show an earlier second than a payload already did when clocks differ; never step back.
    return {**row, **values, "synced_at": max(as_of.at, row["synced_at"]), "revision": row["revision"] + 1}


async def upsert(
    session: AsyncSession,
    model: type[Mirrored],
    stripe_id: str,
    values: Row,
    *,
    as_of: AsOf,
    origin: Origin,
    only_on_insert: Row | None = None,
) -> bool:
    """Write `values` if `as_of` allows it, with audit and outbox rows if anything changed; False when it is stale.

    Stale means: fetch the object and come back with the fetch. (Also False: another unique column of the table is
    taken, which the caller knows how to read.) No row is locked before its write: the row's revision
    is compared in the UPDATE itself, so two writers can't both believe they were first.
    """
    table = table_of(model)
    for _ in range(_ATTEMPTS):
        row = await find_row(session, model, stripe_id)
        if await _owner_is_erased(session, model, row, values):
            values, only_on_insert = impersonal(values), impersonal(only_on_insert or {})
        new = next_row(model, stripe_id, row, values, as_of=as_of, only_on_insert=only_on_insert)
        if new is None:
            return as_of.revision is None and shows(row, values)
        if row is None:
            insertion = insert(table).values(new).on_conflict_do_nothing().returning(table.c.id)
            written = await session.scalar(insertion)
        else:
            mine = (table.c.id == row["id"], table.c.revision == row["revision"])
            changed = {name: value for name, value in new.items() if name not in OWN}
            written = await session.scalar(update(table).where(*mine).values(changed).returning(table.c.id))
        if written is not None:
            change = Change(model=model, old=row, new=new, origin=origin)
            if (entry := audit_entry(change)) is not None:
                await audit.append(session, [entry])
            await outbox.append(session, announcements(change))
            return True
    return False


async def _owner_is_erased(session: AsyncSession, model: type[Mirrored], row: Row | None, values: Row) -> bool:
    if model is Customer:
        return row is not None and row["erased_at"] is not None
    owner = values.get("customer_id") or (row or {}).get("customer_id")
    erased_at = None if owner is None else await session.scalar(select(Customer.erased_at).where(Customer.id == owner))
    return erased_at is not None


def impersonal(values: Row) -> dict[str, Any]:
    """What may be kept of somebody who was erased, whatever Stripe still tells."""
    return {**values} | {name: {} if name == "stripe_metadata" else None for name in values.keys() & PERSONAL}


async def bury(session: AsyncSession, model: type[Mirrored], stripe_id: str, *, revision: int, origin: Origin) -> bool:
    """Leave a tombstone for an object Stripe no longer has; of one we never had, nothing. False when stale."""
    row = await find_row(session, model, stripe_id)
    if row is None:
        return revision == NO_ROW
    as_of = AsOf(at=row["synced_at"], revision=revision)
    return row["deleted"] or await upsert(session, model, stripe_id, {"deleted": True}, as_of=as_of, origin=origin)


async def find_row(session: AsyncSession, model: type[Mirrored], stripe_id: str) -> Row | None:
    """The row as plain values, past the session's identity map: what is committed now, not what was once loaded."""
    table = table_of(model)
    found = await session.execute(table.select().where(table.c.stripe_id == stripe_id))
    row = found.mappings().one_or_none()
    return None if row is None else dict(row)


async def revision_of(session: AsyncSession, model: type[Mirrored], stripe_id: str) -> int:
    """What a fetch of this object must be applied against. Ask before the fetch."""
    row = await find_row(session, model, stripe_id)
    return NO_ROW if row is None else int(row["revision"])


def table_of(model: type[Mirrored]) -> Table:
    table: Table = model.__table__  # type: ignore[attr-defined]  # every Mirrored model is mapped to a Table
    return table


def must_belong(model: type[Mirrored]) -> bool:
    """Whether a row of it can't be without its customer."""
    owner = table_of(model).columns.get("customer_id")
    return owner is not None and not owner.nullable


@cache
def _blank(table: Table) -> Row:
    """What a new row says where nobody says anything."""
    empty: dict[type, Any] = {bool: False, dict: {}}
    return {c.name: None if c.nullable else empty.get(c.type.python_type) for c in table.columns}


def _may_apply(as_of: AsOf, row: Row, values: Row) -> bool:
    if as_of.revision is not None:
        return as_of.revision == int(row["revision"])
    revives = row["deleted"] or row.get("status") in TERMINAL
    return is_newer(as_of.at, row) and not (revives and _is_alive(values))


TERMINAL = frozenset({"canceled", "incomplete_expired", "paid", "void", "complete", "expired", "completed", "released"})
"""Final words of subscriptions and their schedules, invoices and checkout sessions: a payload may not take them back, a
fetch may."""


def _is_alive(values: Row) -> bool:
    return not values.get("deleted", False) and values.get("status") not in TERMINAL


_BOOKKEEPING = frozenset({"id", "stripe_id", "synced_at", "revision", "customer_id"})
_TEXTS = frozenset({"lines"})
"""Not in the audit log either: what stands on a document is in its row for as long as books are kept."""
PERSONAL = frozenset(
    {
        *("user_id", "email", "name", "last4", "description", "memo", "stripe_metadata"),
        *("url", "hosted_invoice_url", "invoice_pdf", "receipt_url", "pdf", "request"),
    }
)
"""Of customers and what belongs to them. Not in the audit log: it is kept for ever and can't be changed, so it must
not hold what a person may have erased."""


def audit_entry(change: Change) -> audit.Entry | None:
    """What the audit log says of a change; None if nothing it keeps has changed."""
    old, new = change.old, change.new
    changed = [f for f in _audited(table_of(change.model)) if old is None or old[f] != new[f]]
    if not changed:
        return None
    kind = AUDIT_NAMES[change.model.__name__]
    what = "created" if old is None else "deleted" if "deleted" in changed and new["deleted"] else "updated"
    return audit.Entry(
        actor=change.origin.actor,
        action=f"{kind}.{what}",
        subject=new["stripe_id"],
        customer_id=_customer_id(change),
        stripe_event_id=change.origin.stripe_event_id,
        before=None if old is None else {f: old[f] for f in changed},
        after={f: new[f] for f in changed},
    )


def announcements(change: Change) -> list[outbox.Message]:
    """What those outside are told of a change."""
    if change.origin.silent:
        return []
    told = outbox.news(AUDIT_NAMES[change.model.__name__], change.old, change.new)
    return [
        outbox.Message(
            key=news.key,
            type=news.type,
            subject=change.new["stripe_id"],
            customer_id=_customer_id(change),
            stripe_event_id=change.origin.stripe_event_id,
            data=news.data,
        )
        for news in told
    ]


@cache
def _audited(table: Table) -> tuple[str, ...]:
    unsaid = _BOOKKEEPING | _TEXTS | (PERSONAL if is_personal(table) else frozenset())
    return tuple(c.name for c in table.columns if c.name not in unsaid)


def is_personal(table: Table) -> bool:
    """Whether its rows are about people."""
    return table is table_of(Customer) or "customer_id" in table.columns


def _customer_id(change: Change) -> UUID | None:
    if AUDIT_NAMES[change.model.__name__] == "customer":
        owner: UUID | None = change.new["id"]
    else:
        owner = change.new.get("customer_id") or (change.old or {}).get("customer_id")
    return owner


AUDIT_NAMES = {
    "Customer": "customer",
    "Subscription": "subscription",
    "Invoice": "invoice",
    "PaymentMethod": "payment_method",
    "SubscriptionSchedule": "subscription_schedule",
    "CheckoutSession": "checkout_session",
    "PaymentIntent": "payment_intent",
    "Charge": "charge",
    "Refund": "refund",
    "Dispute": "dispute",
    "Product": "product",
    "Price": "price",
    "CreditNote": "credit_note",
}
