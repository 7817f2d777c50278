"""The loops around the services: stored events as they come, housekeeping now and then."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import asyncpg
import structlog
from redis.asyncio import Redis

from app.db import AWAY, Sessions, async_url
from app.provider.protocol import BillingProvider
from app.services.plans_file import load
from app.services.receiver import WAKE_CHANNEL
from app.settings import Settings
from app.worker.audit_heads import publish_heads
from app.worker.credits import expire_grants, expire_holds
from app.worker.dispatcher import Dispatcher
from app.worker.erasing import finish_erasing
from app.worker.housekeeping import announce_expiring_cards, keep_house
from app.worker.inbox import Inbox
from app.worker.meters import Forwarder
from app.worker.reconcile import watch_events, watch_objects
from app.worker.replays import carry_out
from app.worker.topups import TopupBuyer

log = structlog.get_logger(__name__)

HOUSEKEEPING_SECONDS = 600.0
EXPIRING_CARDS_SECONDS = 6 * 3600.0
AUDIT_SECONDS = 60.0
BACKLOG_SECONDS = 10.0
REPLAY_SECONDS = 2.0
HOLDS_SECONDS = 1.0
GRANTS_SECONDS = 10.0
USAGE_SECONDS = 1.0
USAGE_CARE_SECONDS = 60.0
USAGE_SWEEP_SECONDS = 3600.0
TOPUP_SECONDS = 1.0
NEW_METHODS_SECONDS = 10.0
RECONCILE_SECONDS = 60.0  # between two looks whether the schedule asks for something


async def run(
    settings: Settings, *, sessions: Sessions, redis: Redis, provider: BillingProvider, stop: asyncio.Event
) -> None:
    """Work until `stop` is set, then finish what is under way."""
    inbox = Inbox(sessions=sessions, redis=redis, provider=provider, max_attempts=settings.event_max_attempts)
    catalog = load(settings.plans_file)
    forwarder = Forwarder(sessions=sessions, provider=provider, catalog=catalog)
    topups = TopupBuyer(sessions=sessions, provider=provider, catalog=catalog)
    wake = asyncio.Event()
    loops = [
        Dispatcher(
            inbox, wake, concurrency=settings.worker_concurrency, poll_seconds=settings.worker_poll_seconds
        ).run(),
        _every(HOUSEKEEPING_SECONDS, partial(keep_house, sessions, payload_days=settings.event_payload_days)),
        _every(HOUSEKEEPING_SECONDS, partial(finish_erasing, sessions, provider)),
        _every(EXPIRING_CARDS_SECONDS, partial(announce_expiring_cards, sessions)),
        _every(AUDIT_SECONDS, partial(publish_heads, sessions)),
        _every(BACKLOG_SECONDS, inbox.measure_backlog),
        _every(REPLAY_SECONDS, partial(carry_out, sessions, livemode=settings.livemode)),
        _every(HOLDS_SECONDS, partial(expire_holds, sessions, catalog.credits)),
        _every(GRANTS_SECONDS, partial(expire_grants, sessions, catalog.credits)),
        _every(USAGE_SECONDS, forwarder.send_due),
        _every(USAGE_CARE_SECONDS, forwarder.take_care),
        _every(USAGE_SWEEP_SECONDS, forwarder.sweep),
        _every(TOPUP_SECONDS, topups.buy_due),
        _every(NEW_METHODS_SECONDS, topups.notice_new_methods),
        _every(RECONCILE_SECONDS, partial(watch_events, settings, sessions=sessions, provider=provider)),
        _every(RECONCILE_SECONDS, partial(watch_objects, settings, sessions=sessions, provider=provider)),
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


async def _every(seconds: float, chore: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await chore()
        except AWAY as error:
            log.warning("chore_database_away", error=type(error).__name__)
        except Exception:
            # One that can't be done must not stop the others, nor events from being applied.
            log.exception("chore_failed")
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
