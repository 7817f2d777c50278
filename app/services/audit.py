"""The audit log: appended in the transaction of the change itself, each row sealed by a hash over the one before."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import AuditRow, Customer
from app.values import utcnow

CHAINS = 16
"""Rows of one customer share a chain, and a chain is locked from its row to the commit: more chains, less waiting."""

GENESIS = b"\0" * 32
_LOCK_CLASS = 0x61756474  # any constant of our own; the second lock number is the chain


async def record(
    session: AsyncSession,
    *,
    actor: str,
    action: str,
    subject: str,
    customer_id: UUID | None = None,
    stripe_event_id: str | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Append one row. It appears if, and only if, the caller's transaction commits."""
    chain = 0 if customer_id is None else customer_id.int % CHAINS
    # Without this two transactions would read the same last row, and the chain would fork.
    await session.execute(select(func.pg_advisory_xact_lock(_LOCK_CLASS, chain)))
    last = (
        await session.execute(
            select(AuditRow.seq, AuditRow.hash).where(AuditRow.chain == chain).order_by(AuditRow.seq.desc()).limit(1)
        )
    ).one_or_none()
    seq, prev_hash = (1, GENESIS) if last is None else (last.seq + 1, last.hash)
    row: dict[str, Any] = {
        "chain": chain,
        "seq": seq,
        "at": utcnow(),
        "actor": actor,
        "action": action,
        "subject": subject,
        "customer_id": customer_id,
        "stripe_event_id": stripe_event_id,
        "before": None if before is None else dict(before),
        "after": None if after is None else dict(after),
        "prev_hash": prev_hash,
    }
    await session.execute(insert(AuditRow).values(**row, hash=seal(row)))


def seal(row: Mapping[str, Any]) -> bytes:
    """SHA-256 over the previous hash and every field of the row, in a form that survives storage unchanged."""
    fields = {name: value for name, value in row.items() if name not in {"id", "hash", "prev_hash"}}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_plain)
    return hashlib.sha256(row["prev_hash"] + text.encode()).digest()


def _plain(value: Any) -> str:
    return str(value.timestamp()) if hasattr(value, "timestamp") else str(value)


async def first_broken(session: AsyncSession, *, batch: int = 1000) -> tuple[int, int] | None:
    """The first (chain, seq) whose hash doesn't follow from its content and its predecessor, or None."""
    for chain in range(CHAINS):
        seq, prev_hash = 0, GENESIS
        while rows := (
            await session.scalars(
                select(AuditRow)
                .where(AuditRow.chain == chain, AuditRow.seq > seq)
                .order_by(AuditRow.seq)
                .limit(batch)
                .execution_options(populate_existing=True)
            )
        ).all():
            for row in rows:
                fields = {column.name: getattr(row, column.name) for column in AuditRow.__table__.columns}
                if row.seq != seq + 1 or row.prev_hash != prev_hash or row.hash != seal(fields):
                    return chain, seq + 1
                seq, prev_hash = row.seq, row.hash
            session.expunge_all()
    return None


async def list_rows(
    session: AsyncSession, *, customer: str | None, limit: int, starting_after: int | None
) -> list[AuditRow]:
    """Newest first, up to `limit` + 1 rows to tell if there is more; `customer` is a user id or a Stripe id."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit + 1)
    if customer is not None:
        query = query.where(
            AuditRow.customer_id.in_(
                select(Customer.id).where((Customer.user_id == customer) | (Customer.stripe_id == customer))
            )
        )
    if starting_after is not None:
        query = query.where(AuditRow.id < starting_after)
    return list((await session.scalars(query)).all())
