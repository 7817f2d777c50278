"""One transaction for a command line verb."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import create_engine, create_sessions, transaction
from app.settings import Settings

T = TypeVar("T")


async def in_transaction(settings: Settings, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Run `work` and commit; nothing of it stays if it raises."""
    engine = create_engine(settings.database_url.get_secret_value(), pool_size=1, pgbouncer=settings.database_pgbouncer)
    try:
        async with transaction(create_sessions(engine)) as session:
            return await work(session)
    finally:
        await engine.dispose()
