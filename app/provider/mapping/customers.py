"""Stripe's customers, and what belongs to them, of any API generation from 2024-06-20 on, as our values."""

from collections.abc import Mapping
from typing import Any

from app.provider.customer_objects import SetupIntent, TaxId
from app.provider.mapping.reading import flag, integer, mapping_of, maybe, metadata, ref, text, time, within, word
from app.provider.objects import Customer, PaymentMethod


def map_customer(data: Mapping[str, Any]) -> Customer:
    """Read a customer; of a deleted one Stripe shows no more than `id` and `deleted`."""
    if flag(data.get("deleted", False)):
        return Customer(id=word(data.get("id")), deleted=True)
    return Customer(
        id=word(data.get("id")),
        email=maybe(text, data.get("email")),
        name=maybe(text, data.get("name")),
        default_payment_method=maybe(ref, within(data, "invoice_settings", "default_payment_method")),
        metadata=metadata(data.get("metadata")),
        livemode=flag(data.get("livemode")),
        created=time(data.get("created")),
    )


def map_payment_method(data: Mapping[str, Any]) -> PaymentMethod:
    card = mapping_of(data.get("card") or {})
    return PaymentMethod(
        id=word(data.get("id")),
        type=word(data.get("type")),
        customer=maybe(ref, data.get("customer")),
        brand=maybe(word, card.get("brand")),
        last4=maybe(word, card.get("last4")),
        exp_month=maybe(integer, card.get("exp_month")),
        exp_year=maybe(integer, card.get("exp_year")),
        livemode=flag(data.get("livemode")),
        created=time(data.get("created")),
    )


def map_tax_id(data: Mapping[str, Any]) -> TaxId:
    return TaxId(
        id=word(data.get("id")),
        type=word(data.get("type")),
        value=text(data.get("value")),
        country=maybe(word, data.get("country")),
        verification=maybe(word, within(data, "verification", "status")),
        created=time(data.get("created")),
    )


def map_setup_intent(data: Mapping[str, Any]) -> SetupIntent:
    return SetupIntent(
        id=word(data.get("id")),
        status=word(data.get("status")),
        client_secret=maybe(text, data.get("client_secret")),
        customer=maybe(ref, data.get("customer")),
        payment_method=maybe(ref, data.get("payment_method")),
        next_action=maybe(word, within(data, "next_action", "type")),
        redirect_url=maybe(text, within(data, "next_action", "redirect_to_url", "url")),
        created=time(data.get("created")),
    )
