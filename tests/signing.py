"""Signs payloads as Stripe signs webhooks."""

import json
import time
from collections.abc import Mapping
from typing import Any

import stripe


def body(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event, indent=2).encode()


def sign(payload: bytes, secret: str, *, at: int | None = None) -> str:
    """The `Stripe-Signature` header for `payload`, as of unix second `at` (now by default)."""
    return stripe.WebhookSignature.generate_signature_header(payload.decode(), secret, timestamp=at or int(time.time()))
