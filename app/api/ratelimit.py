"""How often a caller may ask: a sliding window in Redis, shared by all processes."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import auth, problems
from app.errors import BillingError, RateLimitedError

log = structlog.get_logger(__name__)

PREFIX = "billhook:limit:"
WINDOW_SECONDS = 60
PAUSE_SECONDS = 1.0
"""How long Redis isn't asked again once it failed: waiting for its time-out on each request would slow them all."""


# One question for all that has queued, and one answer with all that is told (docs/decisions, 0013). A window begins
# with its first request; the one before it counts for as much of itself as lies within the last WINDOW_SECONDS.
# Answers how many are allowed, how many are left, and seconds to more.
_COUNT = """
local limit, asked, width = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1e6
local kept = redis.call('HMGET', KEYS[1], 'began', 'count', 'before')
local began, count, before = tonumber(kept[1]) or 0, tonumber(kept[2]) or 0, tonumber(kept[3]) or 0
if now - began >= 2 * width then
    began, count, before = now, 0, 0
elseif now - began >= width then
    began, count, before = began + width, 0, count
end
local rest = math.max(0, began + width - now)
local room = math.max(0, limit - count - math.floor(before * rest / width))
local allowed = math.min(asked, room)
if allowed > 0 then
    redis.call('HSET', KEYS[1], 'began', string.format('%.6f', began), 'count', count + allowed, 'before', before)
    redis.call('EXPIRE', KEYS[1], 2 * width)
end
local reset = before > 0 and rest % (width / before) or rest
return {allowed, room - allowed, math.max(1, math.ceil(reset))}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How a caller stands: `limit` requests a minute, of which `remaining` are left; in `reset` seconds there are more.

    Says so in the `RateLimit` fields of draft-ietf-httpapi-ratelimit-headers-11.
    """

    allowed: bool
    limit: int
    remaining: int
    reset: int

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [
            (b"ratelimit-policy", b'"default";q=%d;w=%d' % (self.limit, WINDOW_SECONDS)),
            (b"ratelimit", b'"default";r=%d;t=%d' % (self.remaining, self.reset)),
        ]

    def refusal(self) -> RateLimitedError:
        return RateLimitedError("Too many requests; `Retry-After` says when to come back.", retry_after=self.reset)


class RateLimiter:
    """Counts the requests of each caller. Those that come while Redis is asked for theirs share the next question."""

    def __init__(self, redis: Redis, *, per_minute: int, per_minute_for_keys: int) -> None:
        """A service key speaks for all of a product's users, and so may ask more often than one of them."""
        self._count = redis.register_script(_COUNT)
        self._for_people = per_minute
        self._for_keys = per_minute_for_keys
        self._waiting: dict[str, list[asyncio.Future[Window | None]]] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._resume_at = 0.0

    def count(self, caller: str) -> "asyncio.Future[Window | None]":
        """A request of `key:…`, `user:…` or `address:…`. It comes to None without Redis: nobody is limited then."""
        counted: asyncio.Future[Window | None] = asyncio.get_running_loop().create_future()
        if time.monotonic() < self._resume_at:
            counted.set_result(None)
        elif (waiting := self._waiting.get(caller)) is not None:
            waiting.append(counted)
        else:
            self._waiting[caller] = [counted]
            task = asyncio.create_task(self._ask(caller))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        return counted

    async def _ask(self, caller: str) -> None:
        """Until nobody waits; never leaves anybody waiting."""
        limit = self._for_keys if caller.startswith("key:") else self._for_people
        while requests := self._waiting[caller]:
            self._waiting[caller] = []
            try:
                answer = self._count(keys=[PREFIX + caller], args=[limit, len(requests), WINDOW_SECONDS])
                allowed, remaining, reset = await answer
            except Exception as error:  # noqa: BLE001 - an accelerator that fails, however, is one that is away
                self._resume_at = time.monotonic() + PAUSE_SECONDS
                log.warning("rate_limit_skipped", error=repr(error))
                _settle(requests + self._waiting[caller], None)
                break
            yes = Window(allowed=True, limit=limit, remaining=remaining, reset=reset)
            no = Window(allowed=False, limit=limit, remaining=remaining, reset=reset)
            _settle(requests[:allowed], yes)
            _settle(requests[allowed:], no)
        del self._waiting[caller]


def _settle(requests: Iterable["asyncio.Future[Window | None]"], window: Window | None) -> None:
    for counted in requests:
        if not counted.done():  # else its request was given up
            counted.set_result(window)


class RateLimitMiddleware:
    """Limits each verified caller, and each address of callers that aren't."""

    def __init__(self, app: ASGIApp, *, prefix: str) -> None:
        self._app = app
        self._prefix = prefix + "/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self._prefix):
            await self._app(scope, receive, send)
            return
        limiter: RateLimiter = scope["state"]["limiter"]
        window = await limiter.count(await _caller_key(scope))
        if window is None:
            await self._app(scope, receive, send)
            return

        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *window.headers]
            await send(message)

        app = self._app if window.allowed else problems.respond(window.refusal(), scope)
        await app(scope, receive, labelled)


async def _caller_key(scope: Scope) -> str:
    try:
        return (await auth.authenticate(scope)).actor
    except BillingError:
        return address_of(scope)


def address_of(scope: Scope) -> str:
    """Whom to count what comes without a good token against."""
    client = scope.get("client")
    return f"address:{client[0] if client else ''}"
