"""Every error an HTTP caller sees, as RFC 9457 `application/problem+json`."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import asyncpg
import sqlalchemy.exc
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.request_id import request_id_of
from app.errors import BillingError, ConflictError, UnavailableError

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
MAX_NAME_LENGTH = 100  # of a field's name as the caller spelt it

# What Postgres says while it starts, stops, is full, or undoes one of two clashing transactions: it passes by itself.
_PASSING = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.InterfaceError,
)

FROM_STRIPE: dict[int | str, dict[str, Any]] = {502: {"description": "Stripe refuses our own key or request"}}
"""What a route that calls Stripe may answer besides its own errors."""

_HTTP_CODES = {
    HTTPStatus.BAD_REQUEST: ("malformed_request", "The request can't be read."),
    HTTPStatus.NOT_FOUND: ("not_found", "There is nothing at this address."),
    HTTPStatus.METHOD_NOT_ALLOWED: ("method_not_allowed", "This address doesn't know this method."),
    HTTPStatus.REQUEST_TIMEOUT: ("body_too_slow", "The request's body did not arrive in time."),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("body_too_large", "The request's body is too large."),
}


class FieldProblem(BaseModel):
    """What is wrong with one field. The value itself is never repeated."""

    pointer: str | None = Field(default=None, description="JSON pointer into the body, e.g. `#/success_url`")
    param: str | None = Field(default=None, description="Name of the field or parameter, e.g. `success_url`")
    code: str = Field(description="Stable name of the rule that is broken, e.g. `missing`")
    message: str = Field(description="What is wrong, in English")


class Problem(BaseModel):
    """RFC 9457, with `code` to program against and `request_id` to ask us about."""

    type: str = Field(description="`urn:billhook:error:{code}`")
    title: str = Field(description="The status in words")
    status: int = Field(description="The HTTP status")
    detail: str = Field(description="What happened, in English; for people, not for programs")
    instance: str = Field(description="`urn:billhook:request:{request_id}`")
    code: str = Field(description="Stable name of the error, e.g. `subscription_not_found`")
    request_id: str = Field(description="As in the X-Request-ID header and in our logs")
    retryable: bool = Field(description="Whether the same request can succeed later without a change")
    errors: list[FieldProblem] | None = Field(default=None, description="The fields at fault")
    decline_code: str | None = Field(default=None, description="Why the bank declined, in Stripe's words")
    stripe_code: str | None = Field(default=None, description="Stripe's own code of the same error")
    stripe_request_id: str | None = Field(default=None, description="Stripe's id of the request that failed")


RETRYABLE = "billhook.retryable"  # where the ASGI scope says that the same request may succeed later


class ProblemsMiddleware:
    """Answers what the routes' own handlers don't see: errors of the middleware, of Postgres, and our bugs."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if started:
                raise
            await respond(error, scope)(scope, receive, send)


def install(app: FastAPI) -> None:
    """Have the app's own error answers be problems. Unexpected errors are the middleware's."""
    for kind in (BillingError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _handle)


async def _handle(request: Request, error: Exception) -> Response:
    return respond(error, request.scope)


def respond(error: Exception, scope: Scope, *, beside: BaseModel | None = None) -> Response:
    """The answer to a request that failed with `error`; an unexpected one is logged and says nothing of itself.

    What is known `beside` an expected one are extension members (RFC 9457 §3.2).
    """
    if isinstance(error, RequestValidationError):
        return _invalid(error.errors(), scope)
    if isinstance(error, HTTPException):
        code, detail = _HTTP_CODES.get(HTTPStatus(error.status_code), ("http_error", "The request was refused."))
        return _answer(scope, status=error.status_code, code=code, detail=detail, headers=error.headers)
    known = error if isinstance(error, BillingError) else _passing(error)
    if known is None:
        log.error("http_request_failed", exc_info=error)
        return _answer(scope, status=500, code="internal_error", detail="Something went wrong on our side.")
    scope[RETRYABLE] = known.retryable
    headers = {}
    if known.status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS if known.retry_after is None else known.retry_after)
    if known.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return _answer(
        scope,
        status=known.status,
        code=known.code,
        detail=known.message,
        retryable=known.retryable,
        errors=None
        if known.param is None
        else [FieldProblem(pointer=None, param=known.param, code=known.code, message=known.message)],
        decline_code=known.decline_code,
        stripe_code=known.provider_code,
        stripe_request_id=known.provider_request_id,
        headers=headers,
        beside=beside,
    )


def _passing(error: Exception) -> BillingError | None:
    """What the caller may know of an error below us that passes by itself; None for a bug."""
    cause = error.driver_exception if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    if isinstance(cause, asyncpg.UniqueViolationError):
        log.warning("http_request_raced", exc_info=error)
        raced = ConflictError("Something else changed this at the same moment; try again.", code="raced")
        raced.retryable = True
        return raced
    # OSError: nobody listens at Postgres's address, or its socket is gone.
    lost = isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated
    if lost or isinstance(cause, (*_PASSING, sqlalchemy.exc.TimeoutError, OSError)):
        log.warning("http_request_unavailable", error=repr(cause))
        return UnavailableError("The database does not answer.")
    return None


def _invalid(found: Sequence[Mapping[str, Any]], scope: Scope) -> Response:
    """422 for what validation found; 400 for a body that isn't JSON at all."""
    if any(error["type"] == "json_invalid" for error in found):
        code, detail = "malformed_json", "The request's body is not valid JSON."
        return _answer(scope, status=HTTPStatus.BAD_REQUEST, code=code, detail=detail)
    errors = [_field_problem(error) for error in found]
    return _answer(
        scope,
        status=HTTPStatus.UNPROCESSABLE_ENTITY,
        code="invalid_request",
        detail="The request makes no sense as it stands; `errors` says where.",
        errors=errors,
    )


def _field_problem(error: Mapping[str, Any]) -> FieldProblem:
    where, *path = (str(part)[:MAX_NAME_LENGTH].encode(errors="replace").decode() for part in error["loc"])
    pointer = "#" + "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)
    return FieldProblem(
        pointer=pointer if where == "body" else None,
        param=".".join(path) or None,
        code=error["type"],
        message=error["msg"],
    )


def _answer(
    scope: Scope,
    *,
    status: int,
    code: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    beside: BaseModel | None = None,
    **members: Any,
) -> Response:
    request_id = request_id_of(scope)
    problem = Problem(
        type=f"urn:billhook:error:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=f"urn:billhook:request:{request_id}",
        code=code,
        request_id=request_id,
        **{"retryable": False, **members},
    )
    said = problem.model_dump(exclude_none=True) | ({} if beside is None else beside.model_dump())
    return Response(to_json(said), int(status), headers, MEDIA_TYPE)
