"""The Authorization header, verified once per request whoever asks first: rate limit, idempotency or route."""

from starlette.datastructures import Headers
from starlette.types import Scope

from app.db import Sessions
from app.errors import BillingError, UnauthenticatedError
from app.services import identity
from app.services.identity import Caller

_SCOPE_KEY = "billhook.caller"


async def authenticate(scope: Scope) -> Caller:
    """Raises UnauthenticatedError, or UnavailableError when the identity provider or Postgres can't say."""
    if _SCOPE_KEY not in scope:
        try:
            scope[_SCOPE_KEY] = await _verify(scope)
        except BillingError as error:
            scope[_SCOPE_KEY] = error
    caller: Caller | BillingError = scope[_SCOPE_KEY]
    if isinstance(caller, BillingError):
        raise caller
    return caller


def actor_of(scope: Scope) -> str | None:
    """The caller for the log, if they have been verified by now."""
    caller = scope.get(_SCOPE_KEY)
    return caller.actor if isinstance(caller, Caller) else None


async def _verify(scope: Scope) -> Caller:
    token = token_of(scope)
    if token.startswith(identity.KEY_PREFIX):
        sessions: Sessions = scope["state"]["sessions"]
        async with sessions() as session:
            return await identity.verify_key(session, token)
    return await identity.verify_user_token(token, settings=scope["state"]["settings"], jwks=scope["state"]["jwks"])


def token_of(scope: Scope) -> str:
    """What the Authorization header bears, yet to be verified. Raises UnauthenticatedError."""
    given = Headers(scope=scope).getlist("authorization")
    if not given:
        raise UnauthenticatedError("Send `Authorization: Bearer` with a user token or a service key.")
    kind, _, token = given[0].partition(" ")
    if len(given) > 1 or kind.lower() != "bearer" or not token.isascii():
        raise UnauthenticatedError("The Authorization header must be one `Bearer` token.", code="invalid_token")
    return token.strip()
