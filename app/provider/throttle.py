"""A budget of requests to Stripe that all processes share through Redis: for work that can wait."""

import asyncio
import time

import structlog
from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.observability import throttle_seconds

log = structlog.get_logger(__name__)

AWAY_SECONDS = 1.0
"""How long Redis isn't asked again once it failed: waiting for its time-out before each request would add up."""


class Throttle:
    """Lets `per_second` requests go in any second, counted over all processes. It delays; it never refuses or fails.

    Without Redis each process spaces its own requests at that rate. One per event loop.
    """

    def __init__(self, redis: Redis, *, per_second: int) -> None:
        # A moving window, as Stripe's limit leaves no room for the double burst at a fixed window's edge.
        self._limiter = MovingWindowRateLimiter(
            RedisStorage(
                "async+redis://",
                implementation="redispy",
                key_prefix="billhook:stripe",
                connection_pool=redis.connection_pool,  # type: ignore[arg-type]  # documented, but not in its annotation
            )
        )
        self._item = RateLimitItemPerSecond(per_second)
        self._spacing = 1 / per_second
        self._queue = asyncio.Lock()
        self._resume_at = 0.0

    async def turn(self) -> float:
        """Wait until one more request may go; answers how many seconds that took.

        Whoever comes first goes first, and only the first in the queue asks Redis, at most `per_second` times a second.
        """
        started = time.monotonic()
        async with self._queue:
            granted = await self._ask()
            while not granted:
                await asyncio.sleep(self._spacing)
                granted = await self._ask()
        waited = time.monotonic() - started
        throttle_seconds.observe(waited)
        return waited

    async def _ask(self) -> bool:
        if time.monotonic() >= self._resume_at:
            try:
                return await self._limiter.hit(self._item, "background")
            except (RedisError, OSError, TimeoutError) as error:
                self._resume_at = time.monotonic() + AWAY_SECONDS
                log.warning("throttle_redis_away", error=type(error).__name__)
        await asyncio.sleep(self._spacing)
        return True
