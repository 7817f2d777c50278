"""One log line and two metrics for every request."""

import http
import logging
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import observability
from app.api import auth

log = structlog.get_logger(__name__)

_PROBES = frozenset({"/healthz", "/readyz", "/health", "/metrics"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class AccessLogMiddleware:
    """Counts by route, never by path: paths hold ids, and a label per id would drown the metrics."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        start = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - start
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = route_of(scope)
            observability.http_requests.labels(method, route, str(status)).inc()
            observability.http_seconds.labels(method, route).observe(seconds)
            # Probes come every few seconds and say nothing while all is well.
            log.log(
                logging.DEBUG if route in _PROBES and status < http.HTTPStatus.BAD_REQUEST else logging.INFO,
                "http_request",
                method=method,
                route=route,
                status=status,
                duration_ms=round(seconds * 1000, 2),
                caller=auth.actor_of(scope),
            )


def route_of(scope: Scope) -> str:
    """The template of the matched path, or `unmatched`.

    A route that came with `include_router` knows only its own part of the path; FastAPI keeps the whole beside it.
    Starlette's own routes leave nothing of themselves, but ours have no parameters; a mount leaves where it stands.
    """
    context = scope.get("fastapi", {}).get("effective_route_context")
    template: str | None = getattr(context, "path", None) or getattr(scope.get("route"), "path", None)
    if template is None and "endpoint" in scope:
        template = scope["root_path"] if "app_root_path" in scope else scope["path"]
    return template or "unmatched"
