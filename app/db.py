"""The database engine and the base all tables share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import asyncpg
from sqlalchemy import BigInteger, DateTime, MetaData, Text, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """`int` is always bigint: Stripe's amounts and timestamps outgrow 32 bits."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy declares it as a plain class attribute
        int: BigInteger,
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),
        list[Any]: JSONB(none_as_null=True),
    }


Sessions = async_sessionmaker[AsyncSession]

AWAY = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
"""What the database's absence looks like. Loops wait it out: nothing that matters is in memory."""


def async_url(url: str) -> URL:
    """`url` in any spelling people use for Postgres, for the asyncpg driver."""
    parsed = make_url(url)
    if parsed.drivername in {"postgres", "postgresql"}:
        parsed = parsed.set(drivername="postgresql+asyncpg")
    return parsed


def create_engine(url: str, *, pool_size: int, pgbouncer: bool = False, statement_seconds: float = 30) -> AsyncEngine:
    """A lazy engine: nothing connects until the first query.

    Every statement is bounded by `statement_seconds` (and connecting by 10 s) so that no request can wait for ever.
    """
    connect_args: dict[str, Any] = {"timeout": 10, "command_timeout": statement_seconds}
    if pgbouncer:
        # In transaction mode a prepared statement may meet another server connection: unnamed ones can't clash.
        connect_args |= {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: "",
        }
    else:
        connect_args["server_settings"] = {"application_name": "billhook", "idle_in_transaction_session_timeout": "60s"}
    return create_async_engine(
        async_url(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5,
        pool_pre_ping=True,
        hide_parameters=True,  # errors are logged, and people's data must not be
        connect_args=connect_args,
    )


def create_sessions(engine: AsyncEngine, **info: Any) -> Sessions:
    """`info` is what every session knows (`Session.info`): what code that only gets a session goes by."""
    return async_sessionmaker(engine, expire_on_commit=False, info=info)


@asynccontextmanager
async def driver_connection(sessions: Sessions) -> AsyncIterator[Any]:
    """A plain asyncpg connection out of the pool, for statements that SQLAlchemy would only slow down."""
    engine: AsyncEngine = sessions.kw["bind"]
    async with engine.connect() as connection:
        try:
            yield (await connection.get_raw_connection()).driver_connection
        except BaseException:
            # Cancelled in the middle of a BEGIN it may be in a transaction that nobody knows of: not for the next one.
            await connection.invalidate()
            raise


@asynccontextmanager
async def transaction(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """One request's, or one command's, transaction: committed at the end, or nothing of it stays.

    Unlike `sessions.begin()` it lets a service `release` the connection while it asks Stripe.
    """
    async with sessions() as session:
        yield session
        await session.commit()


async def release(session: AsyncSession) -> None:
    """Give the connection back before a call to Stripe: a slow Stripe must not hold our database's connections.

    Only reads may lie behind: services call Stripe before their first write, so nothing is ever committed early.
    """
    if session.in_transaction():
        if await session.scalar(select(func.pg_current_xact_id_if_assigned())) is not None:
            raise RuntimeError("Stripe must be called before the first write")
        await session.commit()
