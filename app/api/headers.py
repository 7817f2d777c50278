"""Headers that tell browsers to do nothing with our answers but what we mean."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_DEFAULTS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Right for JSON; pages bring their own.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
FOR_DATA = _DEFAULTS | {"Cache-Control": "no-store"}


class SecurityHeadersMiddleware:
    """Answers may set any of these themselves; what lies below `cacheable` may be kept by browsers."""

    def __init__(self, app: ASGIApp, *, cacheable: str) -> None:
        self._app = app
        self._cacheable = cacheable

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        defaults = _DEFAULTS if scope["path"].startswith(self._cacheable) else FOR_DATA

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in defaults.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, guarded)
