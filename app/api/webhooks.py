"""Where Stripe posts its events. A plain route: FastAPI's dependencies cost more here than Postgres does."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from app.services import receiver
from app.settings import Settings

MAX_BODY_BYTES = 1024 * 1024


def paths(prefix: str) -> tuple[str, ...]:
    """One endpoint under every name that people have configured at Stripe."""
    return (f"{prefix}/webhook", f"{prefix}/webhooks/stripe", "/webhooks/stripe")


async def receive_webhook(request: Request) -> JSONResponse:
    state = request.state
    settings: Settings = state.settings
    receipt = await receiver.receive(
        await request.body(),
        request.headers.get("stripe-signature"),
        sessions=state.sessions,
        redis=state.redis,
        verifier=state.provider,
        secrets=[secret.get_secret_value() for secret in settings.stripe_webhook_secrets],
        livemode=settings.livemode,
    )
    return JSONResponse({"id": receipt.event_id, "outcome": receipt.outcome})


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
            "413": {"description": "Larger than 1 MiB"},
        },
    }
