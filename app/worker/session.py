"""The database of a command line verb: its sessions while it lasts, or one transaction."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import Sessions, create_engine, create_sessions, transaction
from app.services.plans_file import load
from app.settings import Settings

T = TypeVar("T")


@asynccontextmanager
async def connected(settings: Settings, *, statement_seconds: float = 30) -> AsyncIterator[Sessions]:
    engine = create_engine(
        settings.database_url.get_secret_value(),
        pool_size=1,
        pgbouncer=settings.database_pgbouncer,
        statement_seconds=statement_seconds,
    )
    try:
        # Few verbs ever want to know, and the others must not need the file.
        yield create_sessions(engine, credit_rules=lambda: load(settings.plans_file).credits)
    finally:
        await engine.dispose()


async def in_transaction(
    settings: Settings, work: Callable[[AsyncSession], Awaitable[T]], *, statement_seconds: float = 30
) -> T:
    """Run `work` and commit; nothing of it stays if it raises."""
    async with connected(settings, statement_seconds=statement_seconds) as sessions, transaction(sessions) as session:
        return await work(session)
