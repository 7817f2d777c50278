"""The loops around the services: stored events as they come, housekeeping now and then."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from functools import partial

import asyncpg
import structlog
from redis.asyncio import Redis
from sqlalchemy.exc import SQLAlchemyError

from app.db import Sessions, async_url
from app.provider.protocol import BillingProvider
from app.services.receiver import WAKE_CHANNEL
from app.settings import Settings
from app.worker.batch import KEYS, Outcome
from app.worker.housekeeping import keep_house
from app.worker.inbox import BATCH, BUSY_SECONDS, Inbox

log = structlog.get_logger(__name__)

HOUSEKEEPING_SECONDS = 600.0
BACKLOG_SECONDS = 10.0
SHUTDOWN_SECONDS = 10.0
MOST_WAITING = 1000  # customers that batches left; more are found again when these are done
AWAY = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
"""What the database's absence looks like. It is waited out: nothing that matters is in memory."""


async def run(
    settings: Settings, *, sessions: Sessions, redis: Redis, provider: BillingProvider, stop: asyncio.Event
) -> None:
    """Work until `stop` is set, then finish what is under way."""
    inbox = Inbox(sessions=sessions, redis=redis, provider=provider, max_attempts=settings.event_max_attempts)
    wake = asyncio.Event()
    loops = [
        _dispatch(inbox, wake, settings.worker_concurrency, settings.worker_poll_seconds),
        _every(HOUSEKEEPING_SECONDS, partial(keep_house, sessions)),
        _every(BACKLOG_SECONDS, inbox.measure_backlog),
    ]
    if not settings.database_pgbouncer:  # LISTEN needs a connection of its own, which PgBouncer doesn't give
        loops.append(_listen(settings.database_url.get_secret_value(), wake))
    tasks = [asyncio.create_task(loop) for loop in loops]
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
    for task in [*tasks, stopping]:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


async def _dispatch(inbox: Inbox, wake: asyncio.Event, concurrency: int, poll_seconds: float) -> None:
    """Batches, as long as anything is due; beside them, one at a time, the customers that batches leave."""
    running: dict[str, asyncio.Task[None]] = {}
    waiting: dict[str, None] = {}  # in the order they came

    def forget(key: str, _task: asyncio.Task[None]) -> None:
        running.pop(key, None)
        wake.set()

    try:
        while True:
            wake.clear()
            pause = poll_seconds
            if len(waiting) < MOST_WAITING:
                found, outcome = await _batch(inbox, busy=running.keys() | waiting.keys())
                waiting |= dict.fromkeys(outcome.left)
                # Somebody else's customers are looked at again a little later, all others' next events at once.
                if found:
                    pause = BUSY_SECONDS if len(outcome.busy) == found else 0
            while waiting and len(running) < concurrency:
                key = next(iter(waiting))
                del waiting[key]
                running[key] = asyncio.create_task(_work(inbox, key))
                running[key].add_done_callback(partial(forget, key))
            with suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), timeout=pause)
    finally:
        if running:
            _, late = await asyncio.wait(running.values(), timeout=SHUTDOWN_SECONDS)
            for task in late:
                task.cancel()


async def _batch(inbox: Inbox, *, busy: Collection[str]) -> tuple[int, Outcome]:
    """How many keys had something due, and what became of them."""
    try:
        keys = await inbox.due_keys(most=KEYS, busy=busy)
        return len(keys), await inbox.process(keys) if keys else Outcome([], [])
    except AWAY as error:
        log.warning("inbox_database_away", error=type(error).__name__)
    except Exception:
        # The events stay pending; a bug met here must not end the loop.
        log.exception("inbox_failed")
    return 0, Outcome([], [])


async def _work(inbox: Inbox, key: str) -> None:
    try:
        while await inbox.process_key(key) >= BATCH:
            pass
    except AWAY as error:
        log.warning("inbox_database_away", error=type(error).__name__)
        await asyncio.sleep(1)
    except Exception:
        # The events stay pending; a bug met here must not end the loop for everybody else.
        log.exception("inbox_failed")
        await asyncio.sleep(1)


async def _every(seconds: float, chore: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await chore()
        except AWAY as error:
            log.warning("chore_database_away", error=type(error).__name__)
        await asyncio.sleep(seconds)


async def _listen(database_url: str, wake: asyncio.Event) -> None:
    """Set `wake` whenever an event is stored. Losing this connection costs only time: polling goes on."""
    dsn = async_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)

    def heard(*_notice: object) -> None:
        wake.set()

    while True:
        connection = None
        try:
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection = await asyncpg.connect(dsn, timeout=5)
                gone = asyncio.Event()
                connection.add_termination_listener(lambda _connection, gone=gone: gone.set())
                await connection.add_listener(WAKE_CHANNEL, heard)
                wake.set()  # whatever came while nobody listened
                await gone.wait()
        finally:
            if connection is not None:
                connection.terminate()
        await asyncio.sleep(1)
