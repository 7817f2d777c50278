"""One id per request: in the answer, in every log line, and in what we say of an error."""

import re
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-ID"
_ACCEPTED = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_SCOPE_KEY = "billhook.request_id"


def request_id_of(scope: Scope) -> str:
    request_id: str = scope[_SCOPE_KEY]
    return request_id


class RequestIdMiddleware:
    """Takes the caller's X-Request-ID where it is a harmless one, else makes a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = scope[_SCOPE_KEY] = given if _ACCEPTED.fullmatch(given) else uuid4().hex

        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, labelled)
