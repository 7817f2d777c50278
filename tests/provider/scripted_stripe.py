"""An ASGI app that gives the answers it was told to give and remembers what it was asked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import httpx

from app.provider.breaker import CircuitBreaker
from app.provider.stripe import StripeProvider

DATE = "Thu, 01 Jan 2026 00:00:09 GMT"
ASKED_AT = 1767225609


@dataclass(frozen=True, kw_only=True)
class Reply:
    """`body` is sent as JSON, or as it is when it is bytes."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Request:
    """`form` holds the parameters wherever they stood: in the query or in the body."""

    verb: str
    path: str
    form: Mapping[str, str]
    headers: Mapping[str, str]


def refusal(status: int, **error: Any) -> Reply:
    """Stripe's error envelope."""
    return Reply(status=status, body={"error": {"type": "invalid_request_error", **error}})


class ScriptedStripe:
    """Gives its replies in turn, the last one for ever."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)
        self.requests: list[Request] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        sent = body.decode() or scope["query_string"].decode()
        pairs = parse_qsl(sent, keep_blank_values=True, strict_parsing=bool(sent))
        assert len(dict(pairs)) == len(pairs), "a parameter was sent twice"
        self.requests.append(
            Request(
                verb=scope["method"],
                path=scope["path"],
                form=dict(pairs),
                headers={name.decode(): value.decode() for name, value in scope["headers"]},
            )
        )
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        headers = {"content-type": "application/json", "date": DATE, "request-id": "req_Qabc", **reply.headers}
        await send(
            {
                "type": "http.response.start",
                "status": reply.status,
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            }
        )
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        await send({"type": "http.response.body", "body": content})

    def provider(self, *, max_network_retries: int = 0, breaker: CircuitBreaker | None = None) -> StripeProvider:
        return StripeProvider(
            "sk_test_Qabc",
            transport=httpx.ASGITransport(app=self),
            max_network_retries=max_network_retries,
            breaker=breaker,
        )
