"""Plain connections out of the pool: whatever happened to their last holder, the next finds them clean."""

import asyncio
from contextlib import suppress

from sqlalchemy import text

from app.db import create_engine, create_sessions, driver_connection


async def test_a_cancelled_holder_leaves_no_transaction_open(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1)
    sessions = create_sessions(engine)

    async def hold(started: asyncio.Event) -> None:
        async with driver_connection(sessions) as connection:
            started.set()
            async with connection.transaction():
                await connection.fetch("SELECT pg_try_advisory_xact_lock(1)")

    left_open = 0
    for attempt in range(60):  # each cancelled at another moment
        started = asyncio.Event()
        task = asyncio.create_task(hold(started))
        await started.wait()
        for _ in range(attempt % 6):
            await asyncio.sleep(0)
        await asyncio.sleep((attempt % 20) * 0.00005)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            await connection.commit()
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            left_open += driver.is_in_transaction()
    await engine.dispose()
    assert left_open == 0
