"""Redis as an accelerator: locks that may vanish at any moment without harm.

Every function answers as if Redis were empty when it is away; correctness lives in Postgres.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import LockError, RedisError

from app.observability import lock_wait_seconds, lock_waits

log = structlog.get_logger(__name__)

LOCK_SECONDS = 15.0


def create_redis(url: str) -> "Redis":
    """A client that gives up within half a second: a slow accelerator is worse than none."""
    return Redis.from_url(
        url, socket_timeout=0.5, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0), decode_responses=True
    )


@asynccontextmanager
async def courtesy_lock(redis: "Redis", name: str, *, wait: float) -> AsyncIterator[bool]:
    """Try for `wait` seconds to be the only one working on `name`; yields whether we are.

    Going on without the lock is always right, only wasteful. While held, the lock is extended every third of its
    life; it is released only by the token that took it (compare and delete, in redis-py's script).
    """
    lock = Lock(redis, f"billhook:lock:{name}", timeout=LOCK_SECONDS, blocking_timeout=wait, thread_local=False)
    held = await _acquire(lock, kind=name.partition(":")[0])
    keeper = asyncio.create_task(_extend(lock)) if held else None
    try:
        yield held
    finally:
        if keeper is not None:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
            with suppress(LockError, RedisError, OSError, TimeoutError):
                await lock.release()


async def _acquire(lock: Lock, *, kind: str) -> bool:
    outcome = "away"
    with suppress(RedisError, OSError, TimeoutError):
        if await lock.acquire(blocking=False):
            outcome = "acquired"
        else:
            with lock_wait_seconds.labels(kind).time():
                outcome = "waited" if await lock.acquire() else "timed_out"
    lock_waits.labels(kind, outcome).inc()
    return outcome in {"acquired", "waited"}


async def _extend(lock: Lock) -> None:
    while True:
        await asyncio.sleep(LOCK_SECONDS / 3)
        try:
            await lock.reacquire()
        except (LockError, RedisError, OSError, TimeoutError):
            log.warning("redis_lock_lost", lock=lock.name)
            return
