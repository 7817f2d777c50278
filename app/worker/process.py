"""The worker as a process of its own: `billhook worker`."""

import asyncio
import signal

from prometheus_client import start_http_server

from app.db import create_engine, create_sessions
from app.observability import configure_logging, registry
from app.redis import create_redis
from app.services.plans_file import load
from app.settings import Settings
from app.worker import runner
from app.worker.provider import background_provider


async def work(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, then finish what is under way."""
    configure_logging(level=settings.log_level, fmt=settings.log_format)
    if settings.worker_metrics_port is not None:
        start_http_server(settings.worker_metrics_port, registry=registry)
    stop = asyncio.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    engine = create_engine(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool_size,
        pgbouncer=settings.database_pgbouncer,
    )
    plans = load(settings.plans_file)
    sessions = create_sessions(engine, credit_rules=lambda: plans.credits)
    redis = create_redis(settings.redis_url.get_secret_value())
    try:
        async with background_provider(settings, redis) as provider:
            await runner.run(settings, sessions=sessions, redis=redis, provider=provider, stop=stop)
    finally:
        await redis.aclose()
        await engine.dispose()
