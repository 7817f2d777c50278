"""Which web pages may call the API from a browser."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from app.api import problems
from app.errors import PermissionDeniedError


class OriginsMiddleware(CORSMiddleware):
    """Pages of `origins`, without cookies: tokens alone say who is calling."""

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
            allow_headers=("Authorization", "Idempotency-Key", "If-None-Match", "X-Request-ID"),
            expose_headers=(
                *("ETag", "Idempotent-Replayed", "Link", "Location", "RateLimit", "RateLimit-Policy", "Retry-After"),
                "X-Request-ID",
            ),
        )

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except _RefusedError as error:
            await problems.respond(error, scope)(scope, receive, send)

    @override
    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code != 200:  # noqa: PLR2004 - Starlette's refusal is plain text
            raise _RefusedError("Pages of this origin may not send this request.", code="cors_refused")
        return response


class _RefusedError(PermissionDeniedError):
    """Told apart from the application's own refusals, which have been answered further in."""
