"""How what Stripe says becomes our rows: never older over newer, whatever order the news comes in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Table, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.models.mirror import Mirrored
from app.services import audit

NO_ROW = 0
_ATTEMPTS = 10


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
    """Who caused a change: for the audit log."""

    actor: str
    stripe_event_id: str | None = None


def is_newer(at: int, row: Mapping[str, Any] | None) -> bool:
    """Whether a payload of Stripe's second `at` may be applied without asking Stripe.

    Stripe's clock has seconds, so two changes of one second can't be told apart: only a later second is newer.
    """
    return row is None or at > row["synced_at"]


async def upsert(
    session: AsyncSession,
    model: type[Mirrored],
    stripe_id: str,
    values: Mapping[str, Any],
    *,
    as_of: AsOf,
    origin: Origin,
    only_on_insert: Mapping[str, Any] | None = None,
) -> bool:
    """Write `values` if `as_of` allows it, with an audit row if anything changed; False when it is stale.

    Stale means: fetch the object and come back with the fetch. (Also False: another unique column of the table is
    taken, which the caller knows how to read.) No row is locked before its write: the row's revision
    is compared in the UPDATE itself, so two writers can't both believe they were first.
    """
    table: Table = model.__table__  # type: ignore[attr-defined]  # every Mirrored model is mapped to a Table
    stamp = {"synced_at": as_of.at}
    for _ in range(_ATTEMPTS):
        row = await find_row(session, model, stripe_id)
        if row is None:
            # A row that vanished since the fetch began can't be: rows are tombstoned, never deleted.
            first = {"id": uuid4(), "stripe_id": stripe_id, **values, **stamp, **(only_on_insert or {})}
            inserted = await session.execute(insert(table).values(first).on_conflict_do_nothing().returning(table))
            if (new := inserted.mappings().one_or_none()) is not None:
                await _audit(session, model, old=None, new=new, origin=origin)
                return True
            continue
        if not _may_apply(as_of, row, values):
            return False
        # A fetch can show an earlier second than a payload already did when clocks differ; never step back.
        changed = await session.execute(
            update(table)
            .where(table.c.id == row["id"], table.c.revision == row["revision"])
            .values(**values, synced_at=max(as_of.at, row["synced_at"]), revision=row["revision"] + 1)
            .returning(table)
        )
        if (new := changed.mappings().one_or_none()) is not None:
            await _audit(session, model, old=row, new=new, origin=origin)
            return True
    return False


async def bury(session: AsyncSession, model: type[Mirrored], stripe_id: str, *, revision: int, origin: Origin) -> bool:
    """Leave a tombstone for an object Stripe no longer has; of one we never had, nothing. False when stale."""
    row = await find_row(session, model, stripe_id)
    if row is None:
        return revision == NO_ROW
    as_of = AsOf(at=row["synced_at"], revision=revision)
    return row["deleted"] or await upsert(session, model, stripe_id, {"deleted": True}, as_of=as_of, origin=origin)


async def find_row(session: AsyncSession, model: type[Mirrored], stripe_id: str) -> Mapping[str, Any] | None:
    """The row as plain values, past the session's identity map: what is committed now, not what was once loaded."""
    table: Table = model.__table__  # type: ignore[attr-defined]  # every Mirrored model is mapped to a Table
    found = await session.execute(table.select().where(table.c.stripe_id == stripe_id))
    row = found.mappings().one_or_none()
    return None if row is None else dict(row)


async def revision_of(session: AsyncSession, model: type[Mirrored], stripe_id: str) -> int:
    """What a fetch of this object must be applied against. Ask before the fetch."""
    row = await find_row(session, model, stripe_id)
    return NO_ROW if row is None else int(row["revision"])


def _may_apply(as_of: AsOf, row: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    if as_of.revision is not None:
        return as_of.revision == int(row["revision"])
    revives = row["deleted"] or row.get("status") in TERMINAL
    return is_newer(as_of.at, row) and not (revives and _is_alive(values))


TERMINAL = frozenset({"canceled", "incomplete_expired", "paid", "void", "complete", "expired"})
"""Final words of subscriptions, invoices and checkout sessions: a payload may not take them back, a fetch may."""


def _is_alive(values: Mapping[str, Any]) -> bool:
    return not values.get("deleted", False) and values.get("status") not in TERMINAL


_BOOKKEEPING = frozenset({"id", "stripe_id", "synced_at", "revision", "customer_id"})
_PERSONAL = frozenset({"email", "name", "stripe_metadata", "url", "hosted_invoice_url", "invoice_pdf", "request"})
"""Not in the audit log: it is kept for ever and can't be changed, so it must not hold what a person may have erased."""


async def _audit(
    session: AsyncSession,
    model: type[Mirrored],
    *,
    old: Mapping[str, Any] | None,
    new: Mapping[str, Any],
    origin: Origin,
) -> None:
    fields = [f for f in new if f not in _BOOKKEEPING | _PERSONAL]
    changed = [f for f in fields if old is None or old[f] != new[f]]
    if not changed:
        return
    kind = AUDIT_NAMES[model.__name__]
    what = "created" if old is None else "deleted" if "deleted" in changed and new["deleted"] else "updated"
    customer: UUID | None = new["id"] if kind == "customer" else new["customer_id"] or (old or {}).get("customer_id")
    await audit.record(
        session,
        actor=origin.actor,
        action=f"{kind}.{what}",
        subject=new["stripe_id"],
        customer_id=customer,
        stripe_event_id=origin.stripe_event_id,
        before=None if old is None else {f: old[f] for f in changed},
        after={f: new[f] for f in changed},
    )


AUDIT_NAMES = {
    "Customer": "customer",
    "Subscription": "subscription",
    "Invoice": "invoice",
    "PaymentMethod": "payment_method",
    "CheckoutSession": "checkout_session",
}
