"""Writes down which calls wanted to change something, for whom, and how they were answered: for the timelines."""

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import auth, idempotency
from app.api.access_log import route_of
from app.api.deps import USER_MEANT
from app.api.request_id import request_id_of
from app.db import Sessions, transaction
from app.services import api_calls
from app.services.identity import User

log = structlog.get_logger(__name__)


class ApiCallsMiddleware:
    """Lies outside of the problems', so that it sees every answer; it writes after the answer, and never changes it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in idempotency.METHODS:
            await self._app(scope, receive, send)
            return
        status, repeated = 500, False

        async def watched(message: Message) -> None:
            nonlocal status, repeated
            if message["type"] == "http.response.start":
                status = message["status"]
                repeated = "Idempotent-Replayed" in Headers(raw=message["headers"])
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            try:
                await _write(scope, status, repeated=repeated)
            except Exception:
                log.exception("api_call_not_recorded")


async def _write(scope: Scope, status: int, *, repeated: bool) -> None:
    user_id, route, actor = scope.get(USER_MEANT), route_of(scope), auth.actor_of(scope)
    if repeated:
        # No route has seen this one, so that its path is all there is to say where it went.
        caller = await auth.authenticate(scope)
        user_id = caller.user_id if isinstance(caller, User) else Request(scope).query_params.get("user_id")
        route = scope["path"]
    if user_id is None or actor is None:
        return
    sessions: Sessions = scope["state"]["sessions"]
    async with transaction(sessions) as session:
        await api_calls.record(
            session,
            user_id=user_id,
            actor=actor,
            method=scope["method"],
            route=route,
            status=status,
            request_id=request_id_of(scope),
        )
