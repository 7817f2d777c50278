"""The audit log: appended in the transaction of the change itself, each row sealed by a hash over the one before."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import override

from app.models import AuditRow, Customer
from app.values import utcnow

CHAINS = 16
"""Rows of one customer share a chain, and a chain is locked from its row to the commit: more chains, less waiting."""

GENESIS = b"\0" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one row will say; see `models.AuditRow`."""

    actor: str
    action: str
    subject: str
    customer_id: UUID | None = None
    stripe_event_id: str | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None

    @property
    def chain(self) -> int:
        return chain_of(self.customer_id)


def chain_of(customer_id: UUID | None) -> int:
    return 0 if customer_id is None else customer_id.int % CHAINS


async def lock(session: AsyncSession, customer_id: UUID | None) -> None:
    """Have this customer's chain to ourselves until the commit, before rows are locked whose change it is to tell."""
    await session.execute(LOCK_CHAINS, {"chains": [chain_of(customer_id)]})


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
    entry = Entry(
        actor=actor,
        action=action,
        subject=subject,
        customer_id=customer_id,
        stripe_event_id=stripe_event_id,
        before=before,
        after=after,
    )
    await append(session, [entry])


async def append(session: AsyncSession, entries: Sequence[Entry]) -> None:
    """Append rows in this order."""
    chains = sorted({entry.chain for entry in entries})
    # Without this two transactions would read the same last row, and the chain would fork.
    await session.execute(LOCK_CHAINS, {"chains": chains})
    heads = (await session.execute(CHAIN_HEADS, {"chains": chains})).all()
    await session.execute(insert(AuditRow), sealed(entries, {head.chain: (head.seq, head.hash) for head in heads}))


# Any constant of our own; the second lock number is the chain. In the order given, which must be ascending: whoever
# locks several does it in the same order as everybody else.
LOCK_CHAINS = text("SELECT pg_advisory_xact_lock(1635083369, chain) FROM unnest(CAST(:chains AS int[])) AS chain")

CHAIN_HEADS = text(
    """
    SELECT chain, last.seq, last.hash FROM unnest(CAST(:chains AS bigint[])) AS chain
     CROSS JOIN LATERAL (
        SELECT seq, hash FROM audit_log WHERE audit_log.chain = chain.chain ORDER BY seq DESC LIMIT 1) AS last
    """
)


def sealed(entries: Sequence[Entry], heads: Mapping[int, tuple[int, bytes]]) -> list[dict[str, Any]]:
    """The rows of `entries`, each chained to the one before; `heads` are the chains' last seq and hash so far."""
    now, last, rows = utcnow(), dict(heads), []
    for entry in entries:
        seq, prev_hash = last.get(entry.chain, (0, GENESIS))
        row: dict[str, Any] = {
            "chain": entry.chain,
            "seq": seq + 1,
            "at": now,
            "actor": entry.actor,
            "action": entry.action,
            "subject": entry.subject,
            "customer_id": entry.customer_id,
            "stripe_event_id": entry.stripe_event_id,
            "before": None if entry.before is None else dict(entry.before),
            "after": None if entry.after is None else dict(entry.after),
            "prev_hash": prev_hash,
        }
        row["hash"] = seal(row)
        last[entry.chain] = row["seq"], row["hash"]
        rows.append(row)
    return rows


def seal(row: Mapping[str, Any]) -> bytes:
    """SHA-256 over the previous hash and every field of the row, in a form that survives storage unchanged."""
    fields = {name: value for name, value in row.items() if name not in {"id", "hash", "prev_hash"}}
    return hashlib.sha256(row["prev_hash"] + _JSON.encode(fields).encode()).digest()


def _plain(value: Any) -> str:
    return str(value.timestamp()) if hasattr(value, "timestamp") else str(value)


_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_plain)


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


@dataclass(frozen=True, slots=True)
class Head:
    """The last row of a chain, `seq` being the number of its rows. As text: chain:seq:hash, the hash in hex."""

    chain: int
    seq: int
    hash: bytes

    @override
    def __str__(self) -> str:
        return f"{self.chain}:{self.seq}:{self.hash.hex()}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        chain, seq, digest = text.split(":")
        return cls(int(chain), int(seq), bytes.fromhex(digest))


async def heads(session: AsyncSession) -> list[Head]:
    """Where each chain that has rows stands now."""
    found = await session.execute(CHAIN_HEADS, {"chains": list(range(CHAINS))})
    return [Head(row.chain, row.seq, row.hash) for row in found]


async def is_kept(session: AsyncSession, head: Head) -> bool:
    """Whether the row that was once a chain's head is still there, unchanged."""
    there = (AuditRow.chain == head.chain, AuditRow.seq == head.seq, AuditRow.hash == head.hash)
    return await session.scalar(select(AuditRow.id).where(*there)) is not None


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
