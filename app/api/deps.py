"""What routes ask for in their signatures: the process's resources, the transaction, the caller."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, TypedDict
from uuid import uuid4

from fastapi import Depends, Header, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncSession

from app.api import auth
from app.api.access_log import route_of
from app.api.ratelimit import RateLimiter
from app.db import Sessions, transaction
from app.errors import InvalidRequestError, NotFoundError, PermissionDeniedError
from app.provider.protocol import BillingProvider
from app.services.access import PlanReader
from app.services.catalog import Catalog
from app.services.credits.charges import Charger
from app.services.credits.reader import Reader
from app.services.identity import Caller, Scope, ServiceKey, User
from app.services.jwks import Jwks
from app.services.receiver import Receiver
from app.settings import Settings

DERIVED_KEY = "billhook.derived_idempotency_key"  # where `idempotency` leaves it in the ASGI scope
USER_MEANT = "billhook.user_id"  # where the ASGI scope says for whom something is to be changed


class State(TypedDict):
    """What the lifespan builds and every request finds in `request.state`."""

    settings: Settings
    sessions: Sessions
    redis: Redis
    provider: BillingProvider
    receiver: Receiver
    charger: Charger
    credits_reader: Reader
    plan_reader: PlanReader
    catalog: Catalog
    jwks: Jwks | None
    limiter: RateLimiter
    outdated_schemas: frozenset[str]


async def get_settings(request: Request) -> Settings:
    settings: Settings = request.state.settings
    return settings


async def get_sessions(request: Request) -> Sessions:
    sessions: Sessions = request.state.sessions
    return sessions


async def get_provider(request: Request) -> BillingProvider:
    provider: BillingProvider = request.state.provider
    return provider


async def get_redis(request: Request) -> Redis:
    redis: Redis = request.state.redis
    return redis


async def get_catalog(request: Request) -> Catalog:
    catalog: Catalog = request.state.catalog
    return catalog


async def check_parameters(request: Request) -> None:
    """Hold the address to what the operation declares, as its body is held to its schema.

    A misspelt parameter would be a filter that silently does nothing; a NUL can't be stored or compared by Postgres.
    """
    if any("\0" in str(text) for text in (*request.path_params.values(), *request.query_params.values())):
        raise InvalidRequestError("Parameters must not contain NUL characters.", code="unstorable_text")
    if request.query_params:
        operation = request.app.openapi()["paths"][route_of(request.scope)][request.method.lower()]
        known = sorted(param["name"] for param in operation.get("parameters", ()) if param["in"] == "query")
        if not request.query_params.keys() <= set(known):
            names = ", ".join(known) or "none"
            raise InvalidRequestError(f"The query parameters here are: {names}.", code="unknown_parameter")


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """One request is one transaction."""
    async with transaction(request.state.sessions) as session:
        yield session


SettingsDep = Annotated[Settings, Depends(get_settings)]
SessionsDep = Annotated[Sessions, Depends(get_sessions)]
"""For what takes several transactions; all else is one, in `SessionDep`."""
ProviderDep = Annotated[BillingProvider, Depends(get_provider)]
RedisDep = Annotated[Redis, Depends(get_redis)]
CatalogDep = Annotated[Catalog, Depends(get_catalog)]
# With the default scope FastAPI would answer first and commit afterwards: a failed commit would still say 200.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]


# These two only describe themselves in OpenAPI; `auth` reads the header.
_user_token = HTTPBearer(
    scheme_name="userToken",
    bearerFormat="JWT",
    description="The end user's own login token, from the product's identity provider.",
    auto_error=False,
)
_service_key = HTTPBearer(
    scheme_name="serviceKey",
    bearerFormat="bk_…",
    description="A service key with the scope the operation names; `billhook keys create` makes one.",
    auto_error=False,
)
Described = Annotated[HTTPAuthorizationCredentials | None, Depends(_user_token)]
DescribedKey = Annotated[HTTPAuthorizationCredentials | None, Depends(_service_key)]


async def get_caller(request: Request, _token: Described, _key: DescribedKey) -> Caller:
    return await auth.authenticate(request.scope)


CallerDep = Annotated[Caller, Depends(get_caller)]


async def get_actor(caller: CallerDep) -> str:
    return caller.actor


ActorDep = Annotated[str, Depends(get_actor)]
"""How the audit log names whoever calls: a backend that acts for a user is not that user."""

UserIdQuery = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=255,
        description="Whom the call is about: required with a service key, needless with the user's own token.",
    ),
]


def user_with(scope: Scope) -> Callable[..., Awaitable[User]]:
    """A dependency: the user a call is about. Service keys need `scope`, and say whom they mean."""

    async def get_user(request: Request, caller: CallerDep, user_id: UserIdQuery = None) -> User:
        user = user_meant(caller, scope, user_id)
        if scope == "billing:write":
            request.scope[USER_MEANT] = user.user_id
        return user

    return get_user


def user_meant(caller: Caller, scope: Scope, user_id: str | None) -> User:
    """Raises NotFoundError when a user means somebody else: whether they exist is none of their business."""
    if isinstance(caller, User):
        if user_id not in {None, caller.user_id}:
            raise NotFoundError("There is no such user.", code="user_not_found")
        return caller
    require_scope(caller, scope)
    if user_id is None:
        raise InvalidRequestError("A service key must say which user it means.", code="missing", param="user_id")
    return User(user_id=user_id)


def key_with(*scopes: Scope) -> Callable[..., Awaitable[ServiceKey]]:
    """A dependency: a service key with one of `scopes`, and nobody's own token."""

    async def get_key(request: Request, _key: DescribedKey) -> ServiceKey:
        return require_scope(await auth.authenticate(request.scope), *scopes)

    return get_key


def require_scope(caller: Caller, *scopes: Scope) -> ServiceKey:
    """One of them is enough; the first is named in the PermissionDeniedError. Users have none."""
    if isinstance(caller, User) or caller.scopes.isdisjoint(scopes):
        raise PermissionDeniedError(f"This needs a service key with the scope `{scopes[0]}`.")
    return caller


ReadUserDep = Annotated[User, Depends(user_with("billing:read"))]
WriteUserDep = Annotated[User, Depends(user_with("billing:write"))]
ReadKeyDep = Annotated[ServiceKey, Depends(key_with("billing:read"))]
WriteKeyDep = Annotated[ServiceKey, Depends(key_with("billing:write"))]
OperatorDep = Annotated[ServiceKey, Depends(key_with("operator"))]


async def get_idempotency_key(request: Request) -> str:
    """What Stripe is sent as idempotency key: the same for a repeated request, another for any other."""
    key: str | None = request.scope.get(DERIVED_KEY)
    return uuid4().hex if key is None else key


IdempotencyKeyDep = Annotated[str, Depends(get_idempotency_key)]


async def get_required_idempotency_key(
    key: IdempotencyKeyDep, _given: Annotated[str, Header(alias="Idempotency-Key")]
) -> str:
    """For what moves money or credits: a request that could be repeated by accident is refused."""
    return key


RequiredIdempotencyKeyDep = Annotated[str, Depends(get_required_idempotency_key)]
