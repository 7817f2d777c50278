"""Conditional reads: every answer to a GET may be kept, and is asked about again before it is used.

The ETag is a hash of the body's very bytes, and so a strong one: equal tags promise equal bytes. Nothing can forget to
change it, as a revision kept beside the data could. What it saves is the transfer and the client's work, not ours.
"""

import re
from collections.abc import Iterable
from hashlib import sha256

from fastapi import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OWN = b"private, no-cache"
"""Kept by the caller alone, who asks each time whether it still holds. That is why nothing has to vary by who calls:
whoever logs in next at the same browser is told 304 only where their own answer has the very same bytes."""

_TAG = re.compile(rb'(?:W/)?("[^"]*")')
_NOT_OF_304 = (b"content-length", b"content-type")


async def never_stored(response: Response) -> None:
    """A route's dependency: its answer is a secret, or good for one use."""
    response.headers["Cache-Control"] = "no-store"


async def public_for_a_minute(response: Response) -> None:
    """A route's dependency: its answer is the same for everybody."""
    response.headers["Cache-Control"] = "public, max-age=60"


class ConditionalReadsMiddleware:
    """For GETs below `prefix` that succeed; answers not to be stored, or sent in parts, go through untagged."""

    def __init__(self, app: ASGIApp, *, prefix: str) -> None:
        self._app = app
        self._prefix = prefix + "/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith(self._prefix):
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        # Headers as they are: looking into them through Starlette's classes costs more than all the rest.
        async def conditional(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                if message["status"] == 200:  # noqa: PLR2004 - nothing else may be kept
                    headers = message["headers"] = list(message["headers"])
                    said = _value(headers, b"cache-control")
                    if said is None:
                        headers.append((b"cache-control", OWN))
                    if said != b"no-store":
                        start = message  # its tag comes with the body
                        return
            elif start is not None:
                begun, start = start, None
                if not message.get("more_body"):
                    _tag(scope, begun, message)
                await send(begun)
            await send(message)

        await self._app(scope, receive, conditional)


def _tag(scope: Scope, start: Message, body: Message) -> None:
    """Give an answer its ETag, or make it a 304 where the caller has it already."""
    tag = b'"%s"' % sha256(body["body"]).hexdigest()[:32].encode()
    start["headers"].append((b"etag", tag))
    given = _value(scope["headers"], b"if-none-match")
    # Compared weakly, as RFC 9110 §13.1.2 wants: whoever compresses our answers on the way makes the tag a weak one.
    if given is not None and (given.strip() == b"*" or tag in _TAG.findall(given)):
        start["status"] = 304
        start["headers"] = [(name, value) for name, value in start["headers"] if name not in _NOT_OF_304]
        body["body"] = b""


def _value(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)
