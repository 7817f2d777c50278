"""The worker as a process of its own: `billhook worker`."""

import asyncio
import signal

from app.db import create_engine, create_sessions
from app.observability import configure_logging
from app.provider.stripe import StripeProvider
from app.redis import create_redis
from app.settings import Settings
from app.worker import runner


async def work(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, then finish what is under way."""
    configure_logging(level=settings.log_level, fmt=settings.log_format)
    stop = asyncio.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    engine = create_engine(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool_size,
        pgbouncer=settings.database_pgbouncer,
    )
    redis = create_redis(settings.redis_url.get_secret_value())
    try:
        async with StripeProvider(
            settings.stripe_secret_key.get_secret_value(), base_url=settings.stripe_api_base
        ) as provider:
            await runner.run(settings, sessions=create_sessions(engine), redis=redis, provider=provider, stop=stop)
    finally:
        await redis.aclose()
        await engine.dispose()
