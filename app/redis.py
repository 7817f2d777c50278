"""Redis as an accelerator: locks and known-event markers that may vanish at any moment without harm.

Every function answers as if Redis were empty when it is away; correctness lives in Postgres.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import structlog
from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import LockError, RedisError

log = structlog.get_logger(__name__)

SEEN_SECONDS = 30 * 24 * 3600  # Stripe's dashboard and CLI can resend an event for thirty days
LOCK_SECONDS = 15.0


def create_redis(url: str) -> "Redis":
    """A client that gives up within half a second: a slow accelerator is worse than none."""
    return Redis.from_url(
        url, socket_timeout=0.5, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0), decode_responses=True
    )


async def is_seen(redis: "Redis", event_key: str) -> bool:
    """Whether `event_key` is known to be stored. False also means "ask Postgres"."""
    try:
        return bool(await redis.exists(f"billhook:seen:{event_key}"))
    except (RedisError, OSError, TimeoutError):
        return False


async def mark_seen(redis: "Redis", event_keys: Sequence[str]) -> None:
    """Remember events. Call only after the transaction that stored them has committed."""
    with suppress(RedisError, OSError, TimeoutError):
        async with redis.pipeline(transaction=False) as pipe:
            for key in event_keys:
                pipe.set(f"billhook:seen:{key}", "1", ex=SEEN_SECONDS)
            await pipe.execute()


@asynccontextmanager
async def courtesy_lock(redis: "Redis", name: str, *, wait: float) -> AsyncIterator[bool]:
    """Try for `wait` seconds to be the only one working on `name`; yields whether we are.

    Going on without the lock is always right, only wasteful. While held, the lock is extended every third of its
    life; it is released only by the token that took it (compare and delete, in redis-py's script).
    """
    lock = Lock(redis, f"billhook:lock:{name}", timeout=LOCK_SECONDS, blocking_timeout=wait, thread_local=False)
    held = False
    with suppress(RedisError, OSError, TimeoutError):
        held = bool(await lock.acquire())
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


async def _extend(lock: Lock) -> None:
    while True:
        await asyncio.sleep(LOCK_SECONDS / 3)
        try:
            await lock.reacquire()
        except (LockError, RedisError, OSError, TimeoutError):
            log.warning("redis_lock_lost", lock=lock.name)
            return
