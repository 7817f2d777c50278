"""One id per request: in the answer, in every log line, and in what we say of an error."""

import re
from secrets import token_hex

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-ID"
_NAME = HEADER.lower().encode()
_ACCEPTED = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_SCOPE_KEY = "billhook.request_id"


def assign_request_id(scope: Scope) -> str:
    """The caller's X-Request-ID where it is a harmless one, else a new one; from now on `request_id_of` this scope."""
    given = dict(scope["headers"]).get(_NAME, b"")
    request_id = scope[_SCOPE_KEY] = given.decode() if _ACCEPTED.fullmatch(given) else token_hex(16)
    return request_id


def request_id_of(scope: Scope) -> str:
    request_id: str = scope[_SCOPE_KEY]
    return request_id


class RequestIdMiddleware:
    """Gives each request its id: to the answer, and to whatever is logged meanwhile."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = assign_request_id(scope)

        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, labelled)
