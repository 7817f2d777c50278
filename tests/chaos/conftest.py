"""Servers of a test's own, to be stopped and killed."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import uvicorn
from starlette.applications import Starlette

from app.embedded import PostgresServer, ValkeyServer, start_postgres, start_valkey
from app.migrate import upgrade


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
