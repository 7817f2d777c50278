"""Runs migrations on one connection; two at once wait for one another."""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.db import async_url
from app.models import Base

MIGRATION_LOCK = 0x62696C6C  # any constant of our own


def run(connection: Connection) -> None:
    """Bring the schema to the asked revision in one transaction: a failed migration leaves nothing behind."""
    context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        # A table lock we can't get soon would queue every query behind us: better to fail and be run again.
        connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        context.run_migrations()


async def connect_and_run(url: str) -> None:
    engine = create_async_engine(async_url(url))
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
            await connection.commit()
    finally:
        await engine.dispose()


given = context.config.attributes.get("connection")
if given is None:
    asyncio.run(connect_and_run(context.config.attributes.get("url") or os.environ["DATABASE_URL"]))
else:
    run(given)
