"""The audit log: whole, ordered, and refusing to be changed."""

import asyncio
from uuid import uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from app.db import Sessions
from app.models import AuditRow
from app.services import audit


async def record(sessions: Sessions, subject: str, **more: object) -> None:
    async with sessions.begin() as session:
        await audit.record(session, actor="system", action="thing.changed", subject=subject, **more)


async def test_concurrent_writers_never_fork_a_chain(sessions: Sessions) -> None:
    customer = uuid4()
    await asyncio.gather(*(record(sessions, f"s{n}", customer_id=customer, after={"n": n}) for n in range(40)))

    async with sessions() as session:
        rows = (await session.scalars(select(AuditRow).order_by(AuditRow.seq))).all()
        assert [row.seq for row in rows] == list(range(1, 41))
        assert len({row.prev_hash for row in rows}) == 40
        assert await audit.first_broken(session) is None


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_log SET actor = 'nobody'", "DELETE FROM audit_log", "TRUNCATE audit_log"]
)
async def test_the_database_refuses_to_rewrite_history(sessions: Sessions, statement: str) -> None:
    await record(sessions, "s")
    with pytest.raises(DBAPIError, match="audit_log only grows"):
        async with sessions.begin() as session:
            await session.execute(text(statement))
    async with sessions() as session:
        assert len((await session.scalars(select(AuditRow))).all()) == 1


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        ("UPDATE audit_log SET after = '{\"n\": 99}' WHERE seq = 2", 2),
        ("UPDATE audit_log SET actor = 'me' WHERE seq = 3", 3),
        ("DELETE FROM audit_log WHERE seq = 2", 2),
    ],
)
async def test_what_a_superuser_changes_behind_the_trigger_shows(sessions: Sessions, tamper: str, found: int) -> None:
    for n in range(4):
        await record(sessions, f"s{n}", after={"n": n, "nested": [{"b": None, "a": "é"}]})
    async with sessions.begin() as session:
        await session.execute(text("ALTER TABLE audit_log DISABLE TRIGGER audit_log_append_only"))
        await session.execute(text(tamper))
    async with sessions() as session:
        assert await audit.first_broken(session) == (0, found)


async def test_a_row_appears_only_if_its_transaction_commits(sessions: Sessions) -> None:
    async with sessions() as session:
        await audit.record(session, actor="system", action="thing.changed", subject="s")
        await session.rollback()
    async with sessions() as session:
        assert (await session.scalars(select(AuditRow))).all() == []
