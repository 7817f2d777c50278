"""Stripe's Checkout sessions and other pages, as our values."""

from collections.abc import Mapping
from typing import Any

from app.provider.mapping.reading import flag, integer, maybe, metadata, ref, text, time, word
from app.provider.objects import CheckoutSession


def map_checkout_session(data: Mapping[str, Any]) -> CheckoutSession:
    return CheckoutSession(
        id=word(data.get("id")),
        mode=word(data.get("mode")),
        status=maybe(word, data.get("status")),
        payment_status=word(data.get("payment_status")),
        url=maybe(text, data.get("url")),
        customer=maybe(ref, data.get("customer")),
        expires_at=time(data.get("expires_at")),
        subscription=maybe(ref, data.get("subscription")),
        payment_intent=maybe(ref, data.get("payment_intent")),
        invoice=maybe(ref, data.get("invoice")),
        client_reference_id=maybe(text, data.get("client_reference_id")),
        currency=maybe(word, data.get("currency")),
        amount_total=maybe(integer, data.get("amount_total")),
        metadata=metadata(data.get("metadata")),
        livemode=flag(data.get("livemode")),
        created=time(data.get("created")),
    )


def map_id(data: Mapping[str, Any]) -> str:
    return word(data.get("id"))


def map_url(data: Mapping[str, Any]) -> str:
    return text(data.get("url"))
