"""Many rows in one statement: how batches read and write the mirror, the audit log and the outbox.

Plain asyncpg, because a statement through SQLAlchemy costs a batch more than its rows do. The connection is one of
the engine's own, on which SQLAlchemy has JSON come as Python values but go as text.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from operator import attrgetter, itemgetter
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from app.models import AuditRow, OutboxMessage
from app.models.mirror import Mirrored
from app.services import audit, outbox
from app.services.mirror import OWN, Change, Row, table_of

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy left it without types

AUDIT: Table = AuditRow.__table__  # type: ignore[assignment]  # a mapped class says no more than FromClause
OUTBOX: Table = OutboxMessage.__table__  # type: ignore[assignment]  # the same


class OvertakenError(Exception):
    """A row was written by somebody else since it was read: nothing of the batch may stay."""


async def find(connection: Any, model: type[Mirrored], stripe_ids: Sequence[str]) -> dict[str, Row]:
    """The rows there are, by Stripe's id."""
    found = await connection.fetch(f"SELECT * FROM {table_of(model)} WHERE stripe_id = ANY($1)", stripe_ids)  # noqa: S608 - our own table's name
    return {record["stripe_id"]: dict(record) for record in found}


async def write(connection: Any, model: type[Mirrored], changes: Mapping[str, tuple[Row | None, Row]]) -> None:
    """Bring each row from what it was to what it is to be. Raises OvertakenError."""
    table = table_of(model)
    new = [after for before, after in changes.values() if before is None]
    changed = [(after, before["revision"]) for before, after in changes.values() if before is not None]
    written = 0
    if new:
        written += _count(await connection.execute(_insertion(table), *_arrays(table, new)))
    if changed:
        arrays = _arrays(table, [after for after, _ in changed])
        written += _count(await connection.execute(_update(table), *arrays, [revision for _, revision in changed]))
    if written != len(changes):
        raise OvertakenError


async def append_audit(connection: Any, entries: Sequence[audit.Entry]) -> None:
    """Append to the audit log, last of all: a chain stays locked from here to the commit."""
    if not entries:
        return
    chains = sorted({entry.chain for entry in entries})
    await connection.execute(_dollars(audit.LOCK_CHAINS.text), chains)
    heads = await connection.fetch(_dollars(audit.CHAIN_HEADS.text), chains)
    rows = audit.sealed(entries, {head["chain"]: (head["seq"], head["hash"]) for head in heads})
    await connection.execute(_insertion(AUDIT), *_arrays(AUDIT, rows))


async def append_outbox(connection: Any, messages: Sequence[outbox.Message]) -> None:
    if messages:
        await connection.execute(_insertion(OUTBOX), *_arrays(OUTBOX, messages, attrgetter))


def news_of(changes: Iterable[Change]) -> dict[type[Mirrored], dict[str, tuple[Row | None, Row]]]:
    """For each row what it was before the first change and is after the last."""
    found: dict[type[Mirrored], dict[str, tuple[Row | None, Row]]] = {}
    for change in changes:
        rows = found.setdefault(change.model, {})
        before = rows.get(change.new["stripe_id"], (change.old,))[0]
        rows[change.new["stripe_id"]] = before, change.new
    return found


def _count(status: str) -> int:
    """The rows a command's status tells of, e.g. INSERT 0 3."""
    return int(status.rsplit(" ", 1)[1])


def _dollars(sql: str) -> str:
    return sql.replace(":chains", "$1")


@cache
def _columns(table: Table) -> tuple[tuple[str, str, bool], ...]:
    """Name, type in SQL and whether it is JSON, of each column that we and not the database fill."""
    filled = [c for c in table.columns if c.identity is None and c.name != "created_at"]
    return tuple((c.name, c.type.compile(_DIALECT), isinstance(c.type, postgresql.JSONB)) for c in filled)


def _arrays(table: Table, rows: Sequence[Any], getter: Callable[[str], Callable[[Any], Any]] = itemgetter) -> list[Any]:
    """One array per column."""
    arrays = []
    for name, _, is_json in _columns(table):
        column = list(map(getter(name), rows))
        arrays.append([None if value is None else json.dumps(value) for value in column] if is_json else column)
    return arrays


@cache
def _insertion(table: Table) -> str:
    names = ", ".join(f'"{name}"' for name, _, _ in _columns(table))
    return f"INSERT INTO {table} ({names}) SELECT * FROM {_unnested(table)} ON CONFLICT DO NOTHING"  # noqa: S608 - our own names


@cache
def _update(table: Table) -> str:
    columns = _columns(table)
    names = [f'"{name}"' for name, _, _ in columns]
    assignments = ", ".join(f"{name} = new.{name}" for name in names if name.strip('"') not in OWN)
    return (
        f"UPDATE {table} AS old SET {assignments} "  # noqa: S608 - our own names
        f"FROM {_unnested(table, 'bigint')} AS new ({', '.join(names)}, base) "
        "WHERE old.id = new.id AND old.revision = new.base"
    )


def _unnested(table: Table, *more: str) -> str:
    types = [type for _, type, _ in _columns(table)] + list(more)
    return f"unnest({', '.join(f'${place}::{type}[]' for place, type in enumerate(types, 1))})"
