"""Servers of a test's own, to be stopped and killed."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvicorn
from chaos.forks import Billhook, Template
from chaos.load import SECRET
from starlette.applications import Starlette

from app.embedded import PostgresServer, ValkeyServer, start_postgres, start_valkey
from app.migrate import upgrade
from app.settings import Settings


@pytest.fixture
async def sandbox_url(sandbox_app: Starlette) -> AsyncIterator[str]:
    """The test's sandbox, reached by other processes."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(sandbox_app, log_config=None, access_log=False, date_header=False))
    task = asyncio.create_task(server.serve(sockets=[sock]))
    yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    server.should_exit = True
    await task


@pytest.fixture
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A durable, migrated Postgres."""
    with start_postgres(tmp_path_factory.mktemp("own postgres")) as server:
        upgrade(server.url)
        yield server


@pytest.fixture
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with start_valkey(tmp_path_factory.mktemp("own valkey"), durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def loaded() -> Iterator[Template]:
    template = Template()
    yield template
    template.close()


@pytest.fixture
def billhook(loaded: Template, settings: Settings, sandbox_url: str, tmp_path: Path) -> Billhook:
    """Real processes on the test's database, with the test's sandbox as Stripe."""
    env = {
        "ENVIRONMENT": "test",
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "STRIPE_SECRET_KEY": settings.stripe_secret_key.get_secret_value(),
        "STRIPE_WEBHOOK_SECRETS": SECRET,
        "STRIPE_API_BASE": sandbox_url,
    }
    return Billhook(loaded, env, tmp_path)
