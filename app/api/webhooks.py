"""Where Stripe posts its events: bare ASGI ahead of all middleware, which costs more here than Postgres does."""

import re
import time
from functools import cache, partial
from http import HTTPStatus
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send

from app.api import headers, problems
from app.api.body_reader import BodyReader
from app.api.request_id import HEADER as REQUEST_ID
from app.api.request_id import assign_request_id
from app.errors import BillingError
from app.observability import LineLog, http_requests, http_seconds, redact
from app.services.receiver import Receiver

MAX_BODY_BYTES = 1024 * 1024

_HEADERS = [(name.lower().encode(), value.encode()) for name, value in headers.FOR_DATA.items()]
_JSON = (b"content-type", b"application/json")
_REQUEST_ID = REQUEST_ID.lower().encode()
_PLAIN = re.compile(r"[a-z0-9_.]+", re.ASCII | re.IGNORECASE)


def paths(prefix: str) -> tuple[str, ...]:
    """One endpoint under every name that people have configured at Stripe."""
    return (f"{prefix}/webhook", f"{prefix}/webhooks/stripe", "/webhooks/stripe")


class WebhookEndpoint:
    """One of `paths`. Does itself what middleware does for all other routes, and leaves one log line per delivery."""

    def __init__(self, path: str, bodies: BodyReader, log: LineLog) -> None:
        self._bodies = bodies
        self._log = log
        self._seconds = http_seconds.labels("POST", path)
        self._requests = cache(partial(http_requests.labels, "POST", path))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        request_id = assign_request_id(scope)
        given: dict[bytes, bytes] = dict(scope["headers"])
        told: dict[str, Any]
        try:
            body = await self._bodies.read(given.get(b"content-length", b""), receive)
            if body is None:
                return
            receiver: Receiver = scope["state"]["receiver"]
            receipt = await receiver.receive(body, given.get(b"stripe-signature", b"").decode("latin-1"))
        except Exception as error:  # noqa: BLE001 - an unexpected one is logged and answered by `respond`
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                problem = problems.respond(error, scope)
            status, head, content = problem.status_code, problem.raw_headers, bytes(problem.body)
            told = {"outcome": _outcome(status), "code": error.code if isinstance(error, BillingError) else None}
        else:
            content = f'{{"id":{quoted(receipt.event_id)},"outcome":"{receipt.outcome}"}}'.encode()
            status, head = 200, [_JSON, (b"content-length", b"%d" % len(content))]
            told = {
                "outcome": receipt.outcome,
                "event_id": _shown(receipt.event_id),
                "event_type": _shown(receipt.type),
            }
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*head, *_HEADERS, (_REQUEST_ID, request_id.encode())],
            }
        )
        await send({"type": "http.response.body", "body": content})
        seconds = time.perf_counter() - start
        self._requests(status).inc()
        self._seconds.observe(seconds)
        self._log.info(
            "stripe_webhook_received",
            request_id=request_id,
            status=status,
            duration_ms=round(seconds * 1000, 2),
            **told,
        )


def _outcome(status: int) -> str:
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return "refused"
    return "unavailable" if status == HTTPStatus.SERVICE_UNAVAILABLE else "failed"


def _shown(text: str) -> str:
    """A word of Stripe's as it may be logged: it is one, or is made harmless."""
    return text if _PLAIN.fullmatch(text) else str(redact(text))


def describe(operation_id: str) -> dict[str, Any]:
    """The OpenAPI operation by hand, because FastAPI describes only its own routes."""
    receipt = {
        "type": "object",
        "required": ["id", "outcome"],
        "properties": {
            "id": {"type": "string", "description": "The event's id"},
            "outcome": {"type": "string", "enum": ["stored", "duplicate", "ignored"]},
        },
    }
    return {
        "tags": ["Webhooks"],
        "summary": "Receive Webhook",
        "description": (
            "Stripe's deliveries. 200 means that the event is stored for good; it is applied a moment later. "
            "While it can't be stored the answer is 503, so that Stripe sends it again."
        ),
        "operationId": operation_id,
        "security": [],
        "parameters": [
            {
                "name": "Stripe-Signature",
                "in": "header",
                "required": True,
                "description": "Signs the body's bytes with the endpoint's secret; at most five minutes old",
                "schema": {"type": "string"},
            }
        ],
        "requestBody": {
            "required": True,
            "description": "One event, at most 1 MiB",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        "responses": {
            "200": {
                "description": "Stored, known already, or of no interest to us",
                "content": {"application/json": {"schema": receipt}},
            },
            "400": {"description": "Not signed by Stripe, or not an event"},
            "408": {"description": "The body did not arrive within 20 seconds"},
            "413": {"description": "Larger than 1 MiB"},
        },
    }
