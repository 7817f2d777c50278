"""Real servers for every test: Postgres and Valkey from their wheels, the sandbox as Stripe."""

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import structlog
from billing import Account
from redis.asyncio import Redis
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from starlette.applications import Starlette

from app.db import Sessions, create_engine, create_sessions
from app.embedded import PostgresServer, ValkeyServer, start_postgres, start_valkey
from app.migrate import upgrade
from app.provider.stripe import StripeProvider
from app.redis import create_redis
from app.sandbox.app import create_sandbox
from app.sandbox.sandbox import Sandbox
from app.services.catalog import Catalog
from app.services.plans_file import load
from app.settings import Settings

ROOT = Path(__file__).parent.parent
STRIPE_KEY = "sk_test_billhook"
WEBHOOK_SECRET = "whsec_dGVzdHMgc2lnbiB3aXRoIHRoaXMgc2VjcmV0"
JWT_SECRET = "tests sign user tokens with this secret"
SANDBOX_URL = "http://sandbox.test"
PUBLIC_URL = "http://billhook.test"

_numbers = itertools.count(1)

# By default tracebacks are drawn with all their variables, which takes seconds for each.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with start_postgres(tmp_path_factory.mktemp("postgres"), durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with start_valkey(tmp_path_factory.mktemp("valkey"), durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def template(postgres: PostgresServer) -> str:
    """A migrated database to copy: a fresh one per test costs some 30 ms and shares nothing."""
    upgrade(postgres.url)
    return "billhook"


@pytest.fixture
async def database_url(postgres: PostgresServer, template: str) -> AsyncIterator[str]:
    name = f"test_{next(_numbers)}"
    admin = create_async_engine(
        make_url(postgres.url).set(database="postgres"), isolation_level="AUTOCOMMIT", pool_size=1
    )
    async with admin.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy"))
    yield make_url(postgres.url).set(database=name).render_as_string(hide_password=False)
    async with admin.connect() as connection:
        await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    await admin.dispose()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, pool_size=10)
    yield engine
    await engine.dispose()


@pytest.fixture
def sessions(engine: AsyncEngine) -> Sessions:
    return create_sessions(engine)


@pytest.fixture
async def redis(valkey: ValkeyServer) -> AsyncIterator[Redis]:
    client = create_redis(valkey.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return load(ROOT / "plans.yaml")


@pytest.fixture
def settings(database_url: str, valkey: ValkeyServer) -> Settings:
    return Settings(
        _env_file=None,
        environment="test",
        database_url=database_url,
        redis_url=valkey.url,
        stripe_secret_key=STRIPE_KEY,
        stripe_webhook_secrets=(WEBHOOK_SECRET,),
        stripe_api_base=SANDBOX_URL,
        jwt_secret=JWT_SECRET,
        jwt_issuer="https://id.example.com",
        jwt_audience="billhook",
        public_url=PUBLIC_URL,
        redirect_origins=("https://app.example.com",),
        plans_file=ROOT / "plans.yaml",
        log_level="warning",
    )


@pytest.fixture
async def sandbox_app() -> AsyncIterator[Starlette]:
    """Stripe, in this process: driven over ASGI, without a socket."""
    app = create_sandbox(secret_key=STRIPE_KEY, base_url=SANDBOX_URL)
    yield app
    await app.state.sandbox.aclose()


@pytest.fixture
def sandbox(sandbox_app: Starlette) -> Sandbox:
    sandbox: Sandbox = sandbox_app.state.sandbox
    return sandbox


@pytest.fixture
async def provider(sandbox_app: Starlette) -> AsyncIterator[StripeProvider]:
    transport = httpx.ASGITransport(sandbox_app)
    async with StripeProvider(STRIPE_KEY, base_url=SANDBOX_URL, transport=transport) as provider:
        yield provider


@pytest.fixture
async def account(
    sessions: Sessions, redis: Redis, provider: StripeProvider, sandbox: Sandbox, catalog: Catalog
) -> Account:
    """A Stripe account whose catalogue is applied and whose deliveries wait for the test."""
    sandbox.hold_deliveries()
    account = Account(sessions, redis, provider, sandbox, catalog)
    await account.apply_plans()
    return account
