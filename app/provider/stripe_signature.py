"""Stripe's webhook signatures, checked over the raw bytes."""

import hmac
from collections.abc import Sequence

TOLERANCE_SECONDS = 300  # as in Stripe's own libraries, which look only into the past


def is_signed(payload: bytes, header: str, *, secrets: Sequence[bytes], now: int) -> bool:
    """Whether one of `secrets` signed `payload` within 300 s of `now`, before or after. Never raises.

    `header` is `t=<unix seconds>,v1=<hex>`, with one `v1` for each secret that is valid while one is being rolled
    (docs.stripe.com/webhooks, "Verify webhook signatures manually"). It is taken apart as Stripe's library does it.
    """
    if not header.isascii():  # nothing that Stripe sends
        return False
    fields = [field.split("=", 2) for field in header.split(",")]
    try:
        signed_at = int([field[1] for field in fields if field[0] == "t"][0])  # noqa: RUF015 - each must have a value
        signatures = [field[1] for field in fields if field[0] == "v1"]
    except (IndexError, ValueError):
        return False
    if abs(now - signed_at) > TOLERANCE_SECONDS:
        return False
    signed = b"%d.%b" % (signed_at, payload)
    for secret in secrets:
        expected = hmac.digest(secret, signed, "sha256").hex()
        if secret.strip() and any(hmac.compare_digest(expected, signature) for signature in signatures):
            return True
    return False
