"""How often a caller may ask: a sliding window in Redis, shared by all processes."""

import math
import time

import structlog
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import auth, problems
from app.errors import BillingError, RateLimitedError

log = structlog.get_logger(__name__)

WINDOW_SECONDS = 60
PAUSE_SECONDS = 1.0
"""How long Redis isn't asked again once it failed: waiting for its time-out on each request would slow them all."""


def create_limiter(redis: Redis) -> SlidingWindowCounterRateLimiter:
    storage = RedisStorage(
        "async+redis://",
        implementation="redispy",
        key_prefix="billhook:limit",
        connection_pool=redis.connection_pool,  # type: ignore[arg-type]  # documented, but not in its annotation
    )
    return SlidingWindowCounterRateLimiter(storage)


class RateLimitMiddleware:
    """Limits each verified caller, and each address of callers that aren't. Without Redis nobody is limited.

    Says what is left in the `RateLimit` fields of draft-ietf-httpapi-ratelimit-headers-11.
    """

    def __init__(self, app: ASGIApp, *, prefix: str, per_minute: int, per_minute_for_keys: int) -> None:
        """A service key speaks for all of a product's users, and so may ask more often than one of them."""
        self._app = app
        self._prefix = prefix + "/"
        self._for_people: RateLimitItem = RateLimitItemPerMinute(per_minute)
        self._for_keys: RateLimitItem = RateLimitItemPerMinute(per_minute_for_keys)
        self._resume_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limited = scope["type"] == "http" and scope["path"].startswith(self._prefix)
        if not limited or time.monotonic() < self._resume_at:
            await self._app(scope, receive, send)
            return
        caller = await _caller_key(scope)
        item = self._for_keys if caller.startswith("key:") else self._for_people
        limiter: SlidingWindowCounterRateLimiter = scope["state"]["limiter"]
        try:
            allowed = await limiter.hit(item, caller)
            window = await limiter.get_window_stats(item, caller)
        except (RedisError, OSError) as error:
            self._resume_at = time.monotonic() + PAUSE_SECONDS
            log.warning("rate_limit_skipped", error=repr(error))
            await self._app(scope, receive, send)
            return
        reset = max(1, math.ceil(window.reset_time - time.time()))

        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["RateLimit-Policy"] = f'"default";q={item.amount};w={WINDOW_SECONDS}'
                headers["RateLimit"] = f'"default";r={window.remaining};t={reset}'
            await send(message)

        if not allowed:
            refusal = RateLimitedError("Too many requests; `Retry-After` says when to come back.", retry_after=reset)
            await problems.respond(refusal, scope)(scope, receive, labelled)
            return
        await self._app(scope, receive, labelled)


async def _caller_key(scope: Scope) -> str:
    try:
        return (await auth.authenticate(scope)).actor
    except BillingError:
        client = scope.get("client")
        return f"address:{client[0] if client else ''}"
