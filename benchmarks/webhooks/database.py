"""The benchmark's own look at Postgres: databases to measure in, what they hold, and how often Postgres synced."""

import asyncio
import time
from typing import Any, Self

import asyncpg
from sqlalchemy import make_url

TEMPLATE = "billhook"
"""The database an embedded Postgres comes with: migrated and seeded, then only copied."""
MEASURED = "benchmark"
QUIET_SECONDS = 10.0

WAL_SYNCS_18 = "SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal'"
WAL_SYNCS = "SELECT wal_sync FROM pg_stat_wal"  # until Postgres 17


class Database:
    """One connection, used from code that does not run in an event loop."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection = self._runner.run(asyncpg.connect(dsn))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._connection.close())
        self._runner.close()

    def execute(self, *statements: str) -> None:
        """Each in a transaction of its own."""
        for statement in statements:
            self._runner.run(self._connection.execute(statement))

    def value(self, query: str) -> Any:
        return self._runner.run(self._connection.fetchval(query))

    def row(self, query: str) -> dict[str, Any]:
        return dict(self._runner.run(self._connection.fetchrow(query)))


def of(url: str, name: str) -> str:
    """The URL of another database of the same server."""
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def renew(admin: Database) -> None:
    """A fresh database to measure in, as the template is. Copying it as files writes a checkpoint too."""
    admin.execute(
        f"DROP DATABASE IF EXISTS {MEASURED} WITH (FORCE)",
        f"CREATE DATABASE {MEASURED} TEMPLATE {TEMPLATE} STRATEGY file_copy",
    )


def wal_syncs(admin: Database) -> int:
    """How often Postgres has synced its WAL. Sessions say so at the latest when they end: read it after that."""
    admin.value("SELECT pg_stat_force_next_flush()")  # what this very session did; it shows from the next statement on
    version = admin.value("SELECT current_setting('server_version_num')::int")
    return int(admin.value(WAL_SYNCS_18 if version >= 180_000 else WAL_SYNCS))  # noqa: PLR2004 - Postgres 18


def wait_until_left(admin: Database) -> None:
    """Until Postgres has noticed that the service has gone."""
    deadline = time.monotonic() + QUIET_SECONDS
    while admin.value(f"SELECT count(*) FROM pg_stat_activity WHERE datname IN ('{TEMPLATE}', '{MEASURED}')"):  # noqa: S608 - our own names
        if time.monotonic() > deadline:
            raise TimeoutError("the service's sessions stay open")
        time.sleep(0.01)
