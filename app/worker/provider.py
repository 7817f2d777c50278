"""Stripe for work that can wait: within the budget that all processes share, so that buyers always get through."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from app.provider.stripe import StripeProvider
from app.provider.throttle import Throttle
from app.settings import Settings


@asynccontextmanager
async def background_provider(settings: Settings, redis: Redis) -> AsyncIterator[StripeProvider]:
    throttle = Throttle(redis, per_second=settings.stripe_background_requests_per_second)
    async with StripeProvider(
        settings.stripe_secret_key.get_secret_value(),
        base_url=settings.stripe_api_base,
        throttle=None if settings.sandboxed else throttle,  # the sandbox has no limit
    ) as provider:
        yield provider
