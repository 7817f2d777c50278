"""The service as its clients see it, and the tokens they carry."""

from collections.abc import AsyncIterator

import httpx
import pytest
from redis.asyncio import Redis
from serving import Bearer, CreateKey, bearer, serving

from app.db import Sessions
from app.main import create_app
from app.provider.protocol import BillingProvider
from app.services import identity
from app.settings import Settings


@pytest.fixture
def quiet(settings: Settings, redis: Redis) -> Settings:  # noqa: ARG001 - `redis` forgets whom earlier tests limited
    """Without the worker: what these tests look at is over when the answer has been sent."""
    return settings.model_copy(update={"worker_in_serve": False})


@pytest.fixture
async def client(quiet: Settings, provider: BillingProvider) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(quiet, provider=provider)) as client:
        yield client


@pytest.fixture
def ada(settings: Settings) -> Bearer:
    return bearer(identity.mint_development_token(settings, "ada", email="ada@example.com", name="Ada"))


@pytest.fixture
def grace(settings: Settings) -> Bearer:
    return bearer(identity.mint_development_token(settings, "grace"))


@pytest.fixture
def create_key(sessions: Sessions) -> CreateKey:
    async def create(*scopes: str) -> Bearer:
        async with sessions.begin() as session:
            _, token = await identity.create_key(session, name="test", scopes=scopes, actor="cli")
        return bearer(token)

    return create
