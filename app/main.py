"""The service: what a process holds while it lives, the order of its middleware, and its routes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import structlog
from fastapi import APIRouter, Depends, FastAPI
from pydantic import SecretStr
from starlette.middleware import Middleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from app.api import (
    accounts,
    audit,
    balance,
    catalog,
    charges,
    charges_create,
    checkout,
    credit_ledger,
    credits_check,
    customers,
    disputes,
    docs,
    entitlements,
    events,
    health,
    invoices,
    payment_methods,
    payments,
    portal,
    prices,
    problems,
    products,
    purchases,
    recent_payments,
    reconcile,
    refunds,
    subscriptions,
    subscriptions_changes,
    subscriptions_operators,
    tax_ids,
    timeline,
    topups,
    usage,
)
from app.api.access_log import AccessLogMiddleware
from app.api.api_calls import ApiCallsMiddleware
from app.api.body_limit import BodyLimitMiddleware
from app.api.body_reader import BodyReader
from app.api.caching import ConditionalReadsMiddleware
from app.api.charges_create import ChargeLane
from app.api.cors import OriginsMiddleware
from app.api.credits_check import CheckLane
from app.api.deps import State, check_parameters
from app.api.gate import Gate
from app.api.headers import SecurityHeadersMiddleware
from app.api.idempotency import IdempotencyMiddleware
from app.api.openapi import BillhookAPI
from app.api.problems import ProblemsMiddleware
from app.api.ratelimit import RateLimiter, RateLimitMiddleware
from app.api.request_id import RequestIdMiddleware
from app.api.webhooks import MAX_BODY_BYTES as MAX_WEBHOOK_BYTES
from app.api.webhooks import WebhookEndpoint
from app.api.webhooks import paths as webhook_paths
from app.db import Sessions, create_engine, create_sessions
from app.migrate import outdated_revisions
from app.observability import LineLog
from app.provider.protocol import BillingProvider
from app.provider.stripe import StripeProvider
from app.redis import create_redis
from app.services.access import PlanReader
from app.services.catalog import Catalog
from app.services.credits.charges import Charger
from app.services.credits.reader import Reader
from app.services.jwks import Jwks
from app.services.plans_file import load
from app.services.receiver import STORE_SECONDS, Receiver
from app.settings import Settings
from app.web import storefront
from app.worker import runner
from app.worker.provider import background_provider

log = structlog.get_logger(__name__)

HERE = Path(__file__).parent
STATIC = "/static"
MAX_BODY_BYTES = 64 * 1024
RESTART_SECONDS = 1.0

ROUTERS = (
    *(catalog, checkout, portal, subscriptions, entitlements, usage, payment_methods, invoices),
    *(subscriptions_changes, subscriptions_operators),
    *(payments, recent_payments, refunds, disputes, balance),
    *(products, prices),
    *(customers, tax_ids),
    *(accounts, credits_check, charges_create, charges, purchases, topups, credit_ledger),
    *(events, timeline, audit, reconcile),
)


def create_app(
    settings: Settings,
    *,
    provider: BillingProvider | None = None,
    identity_transport: httpx.AsyncBaseTransport | None = None,
    ready: Callable[[], None] | None = None,
) -> FastAPI:
    """The application; nothing is opened before its lifespan begins.

    `provider` stands in for the Stripe of `settings` and is closed by its owner; `identity_transport` carries the
    requests to the identity provider; `ready` is called when everything is open, before the first request.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[State]:
        async with AsyncExitStack() as stack:
            state = await _open(stack, settings, provider, identity_transport)
            if settings.worker_in_serve:
                unhurried = background_provider(settings, state["redis"])
                working = _working(state, await stack.enter_async_context(unhurried) if provider is None else provider)
                await stack.enter_async_context(working)
            if ready is not None:
                ready()
            yield state

    bodies = BodyReader(limit=MAX_WEBHOOK_BYTES)
    line_log = LineLog(level=settings.log_level, fmt=settings.log_format)
    app = BillhookAPI(
        api_prefix=settings.api_prefix,
        webhooks={path: WebhookEndpoint(path, bodies, line_log) for path in webhook_paths(settings.api_prefix)},
        lanes=_lanes(settings, line_log),
        lifespan=lifespan,
        middleware=_middleware(settings),
        # A redirect to the same path without its slash would hide a mistake, and lose the body on the way.
        redirect_slashes=False,
        telemetry={"logs": False},  # they would hold what callers sent us
    )
    problems.install(app)
    api = APIRouter(prefix=settings.api_prefix, dependencies=[Depends(check_parameters)])
    for module in ROUTERS:
        api.include_router(module.router)
    app.include_router(api)
    app.include_router(health.router)
    app.include_router(docs.router)
    if settings.sandboxed:
        app.include_router(storefront.router)
    app.mount(STATIC, StaticFiles(directory=HERE / "web" / "static"))
    return app


def _lanes(settings: Settings, log: LineLog) -> dict[str, ASGIApp]:
    bodies, gate = BodyReader(limit=MAX_BODY_BYTES), Gate()
    return {
        path: lane(path, bodies=bodies, gate=gate, origins=settings.cors_origins, log=log)
        for path, lane in (
            (settings.api_prefix + credits_check.PATH, CheckLane),
            (settings.api_prefix + charges_create.PATH, ChargeLane),
        )
    }


def _middleware(settings: Settings) -> list[Middleware]:
    """Outermost first. What lies outside of the problems' must not fail; what lies inside may simply raise."""
    prefix = settings.api_prefix
    return [
        Middleware(RequestIdMiddleware),
        Middleware(AccessLogMiddleware),
        Middleware(SecurityHeadersMiddleware, cacheable=STATIC + "/"),
        Middleware(OriginsMiddleware, origins=settings.cors_origins),
        Middleware(ApiCallsMiddleware),
        Middleware(ProblemsMiddleware),
        Middleware(BodyLimitMiddleware, limit=MAX_BODY_BYTES, larger={f"{prefix}/usage/events": usage.MAX_BATCH_BYTES}),
        Middleware(RateLimitMiddleware, prefix=prefix),
        Middleware(IdempotencyMiddleware, prefix=prefix),
        Middleware(ConditionalReadsMiddleware, prefix=prefix),
    ]


async def _open(
    stack: AsyncExitStack,
    settings: Settings,
    given: BillingProvider | None,
    identity_transport: httpx.AsyncBaseTransport | None,
) -> State:
    """Everything requests share; `stack` closes it in the reverse order."""
    engine = create_engine(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool_size,
        pgbouncer=settings.database_pgbouncer,
    )
    stack.push_async_callback(engine.dispose)
    redis = create_redis(settings.redis_url.get_secret_value())
    stack.push_async_callback(redis.aclose)
    provider = await stack.enter_async_context(_stripe(settings)) if given is None else given
    receiver = await stack.enter_async_context(_receiving(settings, provider))
    plans = load(settings.plans_file)
    sessions = create_sessions(engine, credit_rules=lambda: plans.credits)
    charging = _charging(settings, sessions, plans)
    charger, credits_reader, plan_reader = await stack.enter_async_context(charging)
    jwks = None
    if settings.jwt_jwks_url is not None:
        http = await stack.enter_async_context(httpx.AsyncClient(transport=identity_transport))
        jwks = Jwks(settings.jwt_jwks_url, http)
    return State(
        settings=settings,
        sessions=sessions,
        redis=redis,
        provider=provider,
        receiver=receiver,
        charger=charger,
        credits_reader=credits_reader,
        plan_reader=plan_reader,
        catalog=plans,
        jwks=jwks,
        limiter=RateLimiter(
            redis,
            per_minute=settings.rate_limit_per_minute,
            per_minute_for_keys=settings.rate_limit_per_minute_for_keys,
        ),
        outdated_schemas=outdated_revisions(),
    )


@asynccontextmanager
async def _receiving(settings: Settings, provider: BillingProvider) -> AsyncIterator[Receiver]:
    """The receiver on an engine of its own: requests can't take its connection away, nor it theirs."""
    engine = create_engine(
        settings.database_url.get_secret_value(),
        pool_size=1,
        pgbouncer=settings.database_pgbouncer,
        statement_seconds=STORE_SECONDS,
    )
    receiver = Receiver(
        engine,
        verifier=provider,
        secrets=[secret.get_secret_value() for secret in settings.stripe_webhook_secrets],
        livemode=settings.livemode,
        pgbouncer=settings.database_pgbouncer,
    )
    try:
        yield receiver
    finally:
        await receiver.aclose()
        await engine.dispose()


@asynccontextmanager
async def _charging(
    settings: Settings, sessions: Sessions, plans: Catalog
) -> AsyncIterator[tuple[Charger, Reader, PlanReader]]:
    """What charges credits, and reads them and plans, each with a connection of its own, as the receiver."""
    engine = create_engine(
        settings.database_url.get_secret_value(),
        pool_size=3,
        pgbouncer=settings.database_pgbouncer,
        statement_seconds=STORE_SECONDS,
    )
    charger = Charger(engine, sessions=sessions, rules=plans.credits, pgbouncer=settings.database_pgbouncer)
    reader = Reader(engine, rules=plans.credits, pgbouncer=settings.database_pgbouncer)
    plan_reader = PlanReader(engine, catalog=plans, pgbouncer=settings.database_pgbouncer)
    try:
        yield charger, reader, plan_reader
    finally:
        await charger.aclose()
        await reader.aclose()
        await plan_reader.aclose()
        await engine.dispose()


@asynccontextmanager
async def _stripe(settings: Settings) -> AsyncIterator[BillingProvider]:
    key = settings.stripe_secret_key.get_secret_value()
    async with StripeProvider(key, base_url=settings.stripe_api_base) as provider:
        await provider.warm()
        yield provider


@asynccontextmanager
async def _working(state: State, provider: BillingProvider) -> AsyncIterator[None]:
    """The worker beside the API, until the end; a bug in it must not leave events lying unseen."""
    stop = asyncio.Event()

    async def work() -> None:
        while not stop.is_set():
            try:
                await runner.run(
                    state["settings"],
                    sessions=state["sessions"],
                    redis=state["redis"],
                    provider=provider,
                    stop=stop,
                )
            except Exception:
                log.exception("worker_failed")
                await asyncio.sleep(RESTART_SECONDS)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        stop.set()
        await task


def openapi_document() -> dict[str, Any]:
    """What /openapi.json serves by default, whatever the environment says."""
    settings = Settings.model_construct(
        database_url=SecretStr(""), redis_url=SecretStr(""), stripe_secret_key=SecretStr("sk_test_none")
    )
    return create_app(settings).openapi()
