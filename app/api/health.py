"""Is it alive, can it work, how does it do: for load balancers, people and Prometheus."""

import asyncio
import secrets
from importlib.metadata import version
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from app.api.deps import RedisDep, SettingsDep
from app.api.schemas import Output
from app.db import Sessions
from app.errors import UnauthenticatedError, UnavailableError
from app.observability import registry
from app.services.credits import verify

router = APIRouter(tags=["Operations"])

CHECK_SECONDS = 1.0
DEEP_SECONDS = 3
DEEP_ACCOUNTS = 200
VERSION = version("billhook")

Condition = Literal["ok", "away"]


class Alive(Output):
    status: Literal["ok"] = Field(default="ok", description="The process answers")


class Health(Output):
    """`degraded` is right but slower: Redis only saves work."""

    status: Literal["ok", "degraded"] = Field(description="Whether everything is there")
    version: str = Field(description="Billhook's version")
    postgres: Condition = Field(description="Without it the answer is 503")
    redis: Condition = Field(description="Without it everything works, only slower")


class DeepHealth(Health):
    """The same, and whether the books of prepaid credits are right."""

    credits: Literal["ok", "unchecked"] = Field(
        description="`unchecked`: that took too long, or somebody else was at it. Wrong books are a 503"
    )


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def get_liveness() -> Alive:
    """Whether the process lives. Touches nothing else, so that an outage elsewhere restarts nobody."""
    return Alive()


async def get_health(request: Request, redis: RedisDep) -> Health:
    """Raises UnavailableError without Postgres, or before the migrations this code needs."""
    reachable, _ = await asyncio.gather(
        _redis_answers(redis), _require_schema(request.state.sessions, request.state.outdated_schemas)
    )
    return Health(
        status="ok" if reachable else "degraded",
        version=VERSION,
        postgres="ok",
        redis="ok" if reachable else "away",
    )


HealthDep = Annotated[Health, Depends(get_health)]


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    responses={
        503: {"description": "`postgres_unavailable` or `not_migrated`; asked with `deep`, also `credits_inconsistent`"}
    },
)
async def get_readiness(
    request: Request,
    health: HealthDep,
    *,
    deep: Annotated[
        bool,
        Query(description="Also hold some accounts of prepaid credits, others each time, against their ledger"),
    ] = False,
) -> DeepHealth | Health:
    """Whether requests can be served: 503 without Postgres, or while migrations are missing.

    `deep` is for monitors, and not for what decides where requests go: that there is something wrong in the books is
    no reason to stop serving.
    """
    if not deep:
        return health
    checked = await _check_credits(request.state.sessions)
    fields = health.model_dump()
    if not checked:
        fields["status"] = "degraded"
    return DeepHealth(**fields, credits="ok" if checked else "unchecked")


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def get_condition(health: HealthDep) -> Health:
    """The same as /readyz, under the name many monitors ask for."""
    return health


async def _redis_answers(redis: RedisDep) -> bool:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await redis.ping()
    except (RedisError, OSError):
        return False
    return True


async def _require_schema(sessions: Sessions, outdated: frozenset[str]) -> None:
    """A schema we don't know is one a newer release has already brought: what we need is still in it."""
    try:
        async with asyncio.timeout(CHECK_SECONDS), sessions() as session:
            found = await session.scalar(text("SELECT to_regclass('alembic_version')")) and await session.scalar(
                text("SELECT version_num FROM alembic_version")
            )
    except (SQLAlchemyError, OSError) as error:
        raise UnavailableError("Postgres does not answer.", code="postgres_unavailable") from error
    if found is None or found in outdated:
        raise UnavailableError("The database is not migrated: run `billhook migrate`.", code="not_migrated")


async def _check_credits(sessions: Sessions) -> bool:
    """Whether a sample of the books could be looked at in time. Raises UnavailableError if they are wrong."""
    try:
        async with asyncio.timeout(DEEP_SECONDS), sessions() as session:
            # Once at a time, by whomever it is asked for: it costs more than the other answers.
            if not await session.scalar(text("SELECT pg_try_advisory_xact_lock(1667331940)")):
                return False
            await session.execute(text(f"SET LOCAL statement_timeout = '{DEEP_SECONDS}s'"))
            wrong = await verify.sample(session, most=DEEP_ACCOUNTS)
    except (SQLAlchemyError, OSError):
        return False
    if wrong:
        raise UnavailableError(
            f"{len(wrong)} of the invariants of prepaid credits don't hold ({wrong[0].what}, for one): `billhook"
            " credits verify` names them.",
            code="credits_inconsistent",
        )
    return True


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, 401: {"description": "METRICS_TOKEN is missing"}},
)
async def get_metrics(request: Request, settings: SettingsDep) -> Response:
    """Prometheus metrics. Asks for METRICS_TOKEN as bearer token where one is set."""
    if settings.metrics_token is not None:
        wanted = f"Bearer {settings.metrics_token.get_secret_value()}"
        if not secrets.compare_digest(request.headers.get("authorization", "").encode(), wanted.encode()):
            raise UnauthenticatedError("The metrics need METRICS_TOKEN as bearer token.", code="invalid_token")
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
